//! The packet builder against bytes from elsewhere.

use lb_tests::{
    diff::{assert_packet_eq, checksums_valid},
    names::{CLIENT, CLIENT_2, VIP},
    packet::{Packet, TcpFlags},
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| u8::try_from(digit).expect("a hexadecimal digit"))
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

// The literals were made with scapy 2.8: Ether(src="02:00:00:00:02:01", dst="02:00:00:00:02:02") / the expression in each test.

/// `IP(src="10.1.0.11", dst="203.0.113.10", ttl=64, id=0x1234, flags="DF") / TCP(sport=40000, dport=80, flags="S", seq=1000,
/// window=64240, options=[("MSS", 1460), ("SAckOK", b""), ("NOP", None), ("WScale", 7)])`
#[test]
fn syn_with_options_is_what_scapy_makes() {
    let expected = bytes(
        "02000000 02020200 00000201 0800
         45000034 12344000 4006e279 0a01000b cb00710a
         9c400050 000003e8 00000000 8002faf0 8e920000 020405b4 04020103 03070000",
    );
    let packet = Packet::tcp()
        .from(CLIENT, 40_000)
        .to(VIP, 80)
        .flags(TcpFlags::SYN)
        .ttl(64)
        .sequence(1_000)
        .tcp_options(&[2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7]);
    assert_packet_eq(&packet.build(), &expected);
    assert_eq!(checksums_valid(&expected), Ok(()));
}

/// `IP(src="10.1.0.12", dst="203.0.113.10", ttl=5, id=7, flags=0, tos=0xbb, options=[IPOption_Router_Alert()]) / TCP(sport=1234,
/// dport=8080, flags="PAU", seq=1, ack=0xdeadbeef, window=512, urgptr=3) / b"hello"`
#[test]
fn urgent_data_behind_ip_options_is_what_scapy_makes() {
    let expected = bytes(
        "02000000 02020200 00000201 0800
         46bb0031 00070000 0506d9e9 0a01000c cb00710a 94040000
         04d21f90 00000001 deadbeef 50380200 61ba0003 68656c6c 6f",
    );
    let packet = Packet::tcp()
        .from(CLIENT_2, 1_234)
        .to(VIP, 8_080)
        .flags(TcpFlags::PSH | TcpFlags::ACK | TcpFlags::URG)
        .ttl(5)
        .id(7)
        .dont_fragment(false)
        .dscp(0xbb >> 2)
        .ecn(0xbb & 3)
        .ip_options(&[0x94, 4, 0, 0])
        .sequence(1)
        .acknowledgment(0xdead_beef)
        .window(512)
        .urgent(3)
        .payload(b"hello");
    assert_packet_eq(&packet.build(), &expected);
    assert_eq!(checksums_valid(&expected), Ok(()));
}

/// `IP(src="10.1.0.11", dst="203.0.113.10", ttl=63, id=0x1234, flags="DF") / UDP(sport=40000, dport=53) / b"query"`, and with
/// `chksum=0` and `/ Padding(b"\0" * 13)`.
#[test]
fn datagrams_with_and_without_checksum_are_what_scapy_makes() {
    let headers = "02000000 02020200 00000201 0800
                   45000021 12344000 3f11e381 0a01000b cb00710a
                   9c400035 000d";
    let packet = Packet::udp()
        .from(CLIENT, 40_000)
        .to(VIP, 53)
        .ttl(63)
        .id(0x1234)
        .payload(b"query");
    assert_packet_eq(&packet.build(), &bytes(&format!("{headers} cd5f 71756572 79")));
    let padded = packet.without_checksum().trailer(&[0; 13]).build();
    assert_packet_eq(
        &padded,
        &bytes(&format!("{headers} 0000 71756572 79 {}", "00".repeat(13))),
    );
}

#[test]
fn claim_changes_its_field_and_the_checksums_over_it_alone() {
    let tcp = Packet::tcp().payload(b"data");
    let udp = Packet::udp().payload(b"data");
    let differing_bytes = |claimed: Packet, honest: &Packet| -> Vec<usize> {
        let (claimed, honest) = (claimed.build(), honest.build());
        (0..honest.len()).filter(|at| claimed[*at] != honest[*at]).collect()
    };
    assert_eq!(differing_bytes(tcp.clone().claim_version(6), &tcp), [14, 24]);
    assert_eq!(differing_bytes(tcp.clone().claim_ihl(6), &tcp), [14, 24]);
    assert_eq!(
        differing_bytes(tcp.clone().claim_total_length(0xff00), &tcp),
        [16, 17, 24, 25]
    );
    // The checksum of TCP covers the protocol number as well.
    assert_eq!(differing_bytes(tcp.clone().claim_protocol(17), &tcp), [23, 25, 51]);
    assert_eq!(differing_bytes(tcp.clone().claim_data_offset(15), &tcp), [46, 50]);
    assert_eq!(differing_bytes(udp.clone().claim_udp_length(7), &udp), [39, 41]);
}
