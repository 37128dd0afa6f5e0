//! The steering program. Its rules, in order, are those of docs/steering.md; change that table first.

use super::Maps;
use crate::asm::{Asm, AsmError, Cond::*, Helper, Reg::*, Width::*};
use crate::bpf::Map;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// Values of the posture word.
pub(super) const OPEN: u32 = 0;
/// A packet that a policy may touch does not reach the kernel for want of a socket.
pub(super) const GUARDED: u32 = 1;
/// Nor does anything reach a socket.
pub(super) const CLOSED: u32 = 2;

/// Extension headers that are walked in search of the upper protocol. RFC 8200 §4.1 knows four kinds that may
/// come before it, destination options twice.
const EXTENSION_HEADERS: usize = 6;

/// Not assigned; what lies behind more extension headers than are walked.
const UNKNOWN_PROTOCOL: i32 = 255;

const AH: i32 = 51;
const ESP: i32 = 50;
const ICMPV6: i32 = 58;
const TCP: i32 = 6;
const UDP: i32 = 17;
const SCTP: i32 = 132;
const IPV6_FRAGMENT: i32 = 44;

/// The Ethernet header, and with a VLAN tag.
const ETHERNET: i32 = 14;
const TAGGED: i32 = 18;

/// A number as a load from the packet gives it.
const fn be16(x: u16) -> i32 {
    x.to_be() as i32
}

// The stack.
/// Zero: the key of the one-entry arrays.
const ZERO: i16 = -4;
/// The value of the destination in the local addresses.
const FLAGS: i16 = -8;
/// The upper protocol, or `UNKNOWN_PROTOCOL`.
const PROTOCOL: i16 = -12;
/// The destination port as it stands in the packet, or zero.
const PORT: i16 = -16;
/// Whether this is an IPv6 fragment.
const FRAGMENT: i16 = -20;
/// The verdict that stands in for the socket's when the queue has none.
const FALLBACK: i16 = -24;
/// An IPv4 destination.
const ADDRESS4: i16 = -28;
/// An IPv6 destination.
const ADDRESS6: i16 = -48;
/// The identifier of the frame's VLAN, in this host's byte order.
const VLAN: i16 = -76;
/// The key of a trie: prefix length, {protocol, zero, port}, address (24 octets).
const KEY: i16 = -72;

/// Where an address family keeps things.
struct Family {
    name: &'static str,
    source: i16,
    destination: i16,
    words: i16,
    bits: i32,
}

const V4: Family = Family { name: "4", source: 12, destination: 16, words: 1, bits: 32 };
const V6: Family = Family { name: "6", source: 8, destination: 24, words: 4, bits: 128 };

/// Writes the program for one device.
///
/// Registers: R6 the context, R7 the IP header, R8 the end of the packet, R9 the offset of the upper header.
pub(super) fn assemble(
    maps: &Maps,
    station: &Map,
    vlans: &Map,
    sockets: &Map,
) -> Result<Vec<u64>, AsmError> {
    let mut a = Asm::new();
    a.mov(R6, R1).load(Word, R7, R6, 0).load(Word, R8, R6, 4);
    a.store_imm(Word, Fp, ZERO, 0);

    // Rule 1: not a unicast IP frame for this station.
    bounds(&mut a, ETHERNET, "pass");
    a.load(Byte, R3, R7, 0).and_imm(R3, 1).jump_if(R3, Ne, 0, "pass");
    lookup(&mut a, station, ZERO);
    a.jump_if(R0, Eq, 0, "pass");
    a.load(Half, R3, R0, 6).jump_if(R3, Eq, 0, "station");
    a.load(Word, R3, R0, 0).load(Word, R4, R7, 0).jump_if_reg(R3, Ne, R4, "pass");
    a.load(Half, R3, R0, 4).load(Half, R4, R7, 4).jump_if_reg(R3, Ne, R4, "pass");
    a.label("station");
    a.store_imm(Word, Fp, PORT, 0).store_imm(Word, Fp, FRAGMENT, 0);
    // The tag must be a port's (zero for none, which is also the priority tag's). Behind it comes IP or nothing of ours.
    a.store_imm(Word, Fp, VLAN, 0);
    a.load(Half, R9, R7, 12)
        .jump_if(R9, Eq, be16(0x8100), "tagged")
        .add_imm(R7, ETHERNET)
        .jump("vlan");
    a.label("tagged");
    bounds(&mut a, TAGGED, "pass");
    a.load(Half, R3, R7, 14).and_imm(R3, be16(0x0fff)).swap_be16(R3).store(Word, Fp, VLAN, R3);
    a.load(Half, R9, R7, 16).add_imm(R7, TAGGED);
    a.label("vlan");
    lookup(&mut a, vlans, VLAN);
    a.jump_if(R0, Eq, 0, "pass").load(Word, R3, R0, 0).jump_if(R3, Eq, 0, "pass");
    a.jump_if(R9, Eq, be16(0x0800), "ipv4").jump_if(R9, Eq, be16(0x86dd), "ipv6");
    a.label("pass").mov_imm(R0, XDP_PASS).exit();

    ipv4(&mut a, maps);
    ipv6(&mut a, maps);
    ours(&mut a, maps);
    for (family, exempt, prefixes) in
        [(&V4, &maps.exempt4, &maps.prefixes4), (&V6, &maps.exempt6, &maps.prefixes6)]
    {
        guarded(&mut a, family, exempt);
        transit(&mut a, family, prefixes);
    }
    to_socket(&mut a, maps, sockets);
    a.finish()
}

/// Goes elsewhere if the packet ends within `length` octets behind R7.
fn bounds(a: &mut Asm, length: i32, otherwise: &str) {
    a.mov(R2, R7).add_imm(R2, length).jump_if_reg(R2, Gt, R8, otherwise);
}

/// R0 = the value of the key on the stack, or zero.
fn lookup(a: &mut Asm, map: &Map, key: i16) {
    a.map(R1, map.number()).mov(R2, Fp).add_imm(R2, i32::from(key)).call(Helper::MapLookup);
}

/// Copies an address of the IP header to the stack.
fn copy_address(a: &mut Asm, family: &Family, from: i16, to: i16) {
    for i in 0..family.words {
        a.load(Word, R3, R7, from + 4 * i).store(Word, Fp, to + 4 * i, R3);
    }
}

fn ipv4(a: &mut Asm, maps: &Maps) {
    a.label("ipv4");
    bounds(a, 20, "pass");
    a.load(Byte, R3, R7, 0).mov(R4, R3).and_imm(R4, 0xf0).jump_if(R4, Ne, 0x40, "pass");
    a.mov(R9, R3).and_imm(R9, 15).jump_if(R9, Lt, 5, "pass").shl_imm(R9, 2);

    // Rule 2: multicast, broadcast and reserved destinations, "this network", link-local.
    a.load(Byte, R3, R7, V4.destination).jump_if(R3, Ge, 224, "pass");
    a.load(Byte, R3, R7, V4.source).jump_if(R3, Eq, 0, "pass");
    for address in [V4.source, V4.destination] {
        a.load(Half, R3, R7, address).jump_if(R3, Eq, be16(0xa9fe), "pass");
    }

    copy_address(a, &V4, V4.destination, ADDRESS4);
    lookup(a, &maps.local4, ADDRESS4);
    a.jump_if(R0, Eq, 0, "transit4");
    a.load(Word, R3, R0, 0).store(Word, Fp, FLAGS, R3);
    // Rule 3: fragments for us; more fragments, or an offset.
    a.load(Half, R3, R7, 6).and_imm(R3, be16(0x3fff)).jump_if(R3, Ne, 0, "pass");
    a.load(Byte, R3, R7, 9).store(Word, Fp, PROTOCOL, R3).jump("ours");
}

fn ipv6(a: &mut Asm, maps: &Maps) {
    a.label("ipv6");
    bounds(a, 40, "pass");
    a.load(Byte, R3, R7, 0).and_imm(R3, 0xf0).jump_if(R3, Ne, 0x60, "pass");

    // Rule 2.
    a.load(Byte, R3, R7, V6.destination).jump_if(R3, Eq, 0xff, "pass");
    for address in [V6.source, V6.destination] {
        a.load(Half, R3, R7, address).and_imm(R3, be16(0xffc0));
        a.jump_if(R3, Eq, be16(0xfe80), "pass");
    }

    // R3 the next header, R9 its offset.
    a.load(Byte, R3, R7, 6).mov_imm(R9, 40);
    for i in 0..EXTENSION_HEADERS {
        let (walk, next) = (format!("walk{i}"), format!("next{i}"));
        for options in [0, 43, 60] {
            a.jump_if(R3, Eq, options, &walk);
        }
        a.jump("upper6");
        a.label(&walk);
        a.mov(R2, R7).add(R2, R9).mov(R4, R2).add_imm(R4, 8).jump_if_reg(R4, Gt, R8, "unknown6");
        a.load(Byte, R3, R2, 0).load(Byte, R4, R2, 1).add_imm(R4, 1).shl_imm(R4, 3).add(R9, R4);
        a.label(&next);
    }
    for options in [0, 43, 60] {
        a.jump_if(R3, Eq, options, "unknown6");
    }
    a.jump("upper6");
    a.label("unknown6").mov_imm(R3, UNKNOWN_PROTOCOL);
    a.label("upper6").store(Word, Fp, PROTOCOL, R3);
    a.jump_if(R3, Eq, IPV6_FRAGMENT, "fragment6").jump_if(R3, Ne, ICMPV6, "destination6");
    // Rule 2: neighbour discovery (RFC 4861 §4), which may run between global addresses.
    a.mov(R2, R7).add(R2, R9).mov(R4, R2).add_imm(R4, 1).jump_if_reg(R4, Gt, R8, "destination6");
    a.load(Byte, R3, R2, 0).jump_if(R3, Lt, 133, "destination6");
    a.jump_if(R3, Gt, 137, "destination6").jump("pass");
    a.label("fragment6").store_imm(Word, Fp, FRAGMENT, 1);

    a.label("destination6");
    copy_address(a, &V6, V6.destination, ADDRESS6);
    lookup(a, &maps.local6, ADDRESS6);
    a.jump_if(R0, Eq, 0, "transit6");
    a.load(Word, R3, R0, 0).store(Word, Fp, FLAGS, R3);
    // Rule 3.
    a.load(Word, R3, Fp, FRAGMENT).jump_if(R3, Ne, 0, "pass").jump("ours");
}

/// Whole packets for us.
fn ours(a: &mut Asm, maps: &Maps) {
    // Rule 4: ESP and AH.
    a.label("ours").load(Word, R3, Fp, PROTOCOL);
    a.jump_if(R3, Eq, ESP, "protected").jump_if(R3, Eq, AH, "protected");
    for protocol in [UDP, TCP, SCTP] {
        a.jump_if(R3, Eq, protocol, "ports");
    }
    a.jump("unprotected");
    a.label("ports").mov(R2, R7).add(R2, R9).mov(R4, R2).add_imm(R4, 8);
    a.jump_if_reg(R4, Gt, R8, "unprotected");
    a.load(Half, R4, R2, 2).store(Word, Fp, PORT, R4);
    a.jump_if(R3, Ne, UDP, "unprotected");
    // Rule 4: ESP in UDP (RFC 3948 §2.1), which begins with an SPI and not with the four zero octets of the
    // non-ESP marker (§2.2). A NAT keepalive (§2.3) is one octet, whatever the frame was padded with.
    lookup(a, &maps.encapsulation_ports, PORT);
    a.jump_if(R0, Eq, 0, "unprotected");
    a.mov(R2, R7).add(R2, R9).mov(R4, R2).add_imm(R4, 12);
    a.jump_if_reg(R4, Gt, R8, "unprotected");
    a.load(Half, R3, R2, 4).swap_be16(R3).jump_if(R3, Lt, 12, "unprotected");
    a.load(Word, R3, R2, 8).jump_if(R3, Ne, 0, "protected");

    // Rule 5: the host's own traffic.
    a.label("unprotected").load(Word, R3, Fp, FLAGS).jump_if(R3, Eq, 0, "pass");
    a.load(Byte, R3, R7, 0).and_imm(R3, 0xf0).jump_if(R3, Eq, 0x40, "guarded4").jump("guarded6");
}

/// Rule 6: exempt packets for a guarded address, on this port and then on any.
fn guarded(a: &mut Asm, family: &Family, exempt: &Map) {
    let (transit, label) = (format!("transit{}", family.name), format!("guarded{}", family.name));
    a.label(&label);
    // It holds already; the verifier has lost it where the families met.
    bounds(a, i32::from(family.destination + 4 * family.words), "pass");
    a.store_imm(Word, Fp, KEY, 32 + family.bits);
    copy_address(a, family, family.source, KEY + 8);
    // Bytes, so that the key is the same in either byte order.
    a.load(Word, R3, Fp, PROTOCOL).store(Byte, Fp, KEY + 4, R3).store_imm(Byte, Fp, KEY + 5, 0);
    a.load(Word, R3, Fp, PORT).store(Half, Fp, KEY + 6, R3);
    lookup(a, exempt, KEY);
    a.jump_if(R0, Ne, 0, "pass");
    a.store_imm(Half, Fp, KEY + 6, 0);
    lookup(a, exempt, KEY);
    a.jump_if(R0, Ne, 0, "pass").jump(&transit);
}

/// Rule 7: what policies may touch.
fn transit(a: &mut Asm, family: &Family, prefixes: &Map) {
    a.label(&format!("transit{}", family.name));
    a.store_imm(Word, Fp, KEY, family.bits);
    copy_address(a, family, family.source, KEY + 4);
    lookup(a, prefixes, KEY);
    a.jump_if(R0, Eq, 0, "pass").load(Word, R9, R0, 0);
    for i in 0..family.words {
        a.load(Word, R3, R7, family.destination + 4 * i).store(Word, Fp, KEY + 4 + 4 * i, R3);
    }
    lookup(a, prefixes, KEY);
    a.jump_if(R0, Eq, 0, "pass").load(Word, R3, R0, 0);
    // See `Sides::word`.
    a.shr_imm(R3, 8).and(R9, R3).and_imm(R9, 3).jump_if(R9, Ne, 0, "touched").jump("pass");
}

/// The verdict "socket", as the posture has it.
fn to_socket(a: &mut Asm, maps: &Maps, sockets: &Map) {
    a.label("protected").store_imm(Word, Fp, FALLBACK, XDP_PASS).jump("posture");
    a.label("touched").store_imm(Word, Fp, FALLBACK, XDP_DROP);
    a.label("posture");
    lookup(a, &maps.posture, ZERO);
    a.jump_if(R0, Eq, 0, "pass").load(Word, R1, R0, 0);
    a.jump_if(R1, Eq, CLOSED as i32, "drop").jump_if(R1, Eq, GUARDED as i32, "redirect");
    a.store_imm(Word, Fp, FALLBACK, XDP_PASS);
    a.label("redirect");
    // The receive queue's number is the key.
    a.map(R1, sockets.number()).load(Word, R2, R6, 16).load(Word, R3, Fp, FALLBACK);
    a.call(Helper::RedirectMap).jump_if(R0, Eq, XDP_DROP, "drop").exit();

    a.label("drop");
    lookup(a, &maps.drops, ZERO);
    a.jump_if(R0, Eq, 0, "dropped").mov_imm(R1, 1).atomic_add(R0, 0, R1);
    a.label("dropped").mov_imm(R0, XDP_DROP).exit();
}
