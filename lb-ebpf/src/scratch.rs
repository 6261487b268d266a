//! Memory of this CPU for what is too large for the stack, which has 512 bytes for all subprograms that are entered.
//!
//! There is one such place. Who borrows it uses it up before anything else is called that borrows it.

use crate::maps;

/// Bytes of the place.
const SIZE: usize = 520;

/// The place, aligned for everything that is put there.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Scratch([u8; SIZE]);

/// The place as a `T`. Its contents are whatever was there.
#[inline(always)]
pub(crate) fn borrow<T>() -> Option<*mut T> {
    const { assert!(size_of::<T>() <= SIZE && align_of::<T>() <= 8) };
    maps::SCRATCH.get_ptr_mut(0).map(<*mut Scratch>::cast)
}

/// Puts a value there.
#[inline(always)]
pub(crate) fn put<T>(value: T) -> Option<&'static mut T> {
    let place = borrow::<T>()?;
    // SAFETY: valid, aligned memory of this CPU, and nobody else refers to it.
    unsafe {
        place.write(value);
        Some(&mut *place)
    }
}
