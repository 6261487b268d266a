//! Integers as they stand on the wire.
//!
//! A value of these types is big-endian in memory whatever the machine is; it turns into a number only through `to_native`. Map keys
//! hold them, so that a key is built from a packet without swapping a byte, and so that nothing compares a wire value with a
//! number by accident.

macro_rules! big_endian {
    ($name:ident, $native:ty, $bytes:literal) => {
        #[doc = concat!("A big-endian `", stringify!($native), "`.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(transparent)]
        pub struct $name($native);

        impl $name {
            /// From a number in the machine's byte order.
            #[inline(always)]
            pub const fn new(native: $native) -> Self {
                Self(native.to_be())
            }

            /// From the bytes as they stand in the packet.
            #[inline(always)]
            pub const fn from_wire(bytes: [u8; $bytes]) -> Self {
                Self(<$native>::from_ne_bytes(bytes))
            }

            /// The bytes as they stand in the packet.
            #[inline(always)]
            pub const fn to_wire(self) -> [u8; $bytes] {
                self.0.to_ne_bytes()
            }

            /// The number, in the machine's byte order.
            #[inline(always)]
            pub const fn to_native(self) -> $native {
                <$native>::from_be(self.0)
            }

            /// The memory image read as a number of this machine. Only for arithmetic that does not depend on byte order: the
            /// Internet checksum (RFC 1071, section 2 (B)) and hashing.
            #[inline(always)]
            pub const fn image(self) -> $native {
                self.0
            }
        }
    };
}

big_endian!(Be16, u16, 2);
big_endian!(Be32, u32, 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_bytes_are_most_significant_first() {
        assert_eq!(Be16::new(0x1234).to_wire(), [0x12, 0x34]);
        assert_eq!(Be32::new(0x1234_5678).to_wire(), [0x12, 0x34, 0x56, 0x78]);
        assert_eq!(Be16::from_wire([0x12, 0x34]).to_native(), 0x1234);
        assert_eq!(Be32::from_wire([1, 2, 3, 4]).to_native(), 0x0102_0304);
    }
}
