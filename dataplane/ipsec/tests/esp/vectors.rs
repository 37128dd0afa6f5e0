//! Published ESP packets, byte for byte in both directions (`tests/vectors/esp_ah_packets.json`; each
//! record names its origin).

use crate::fixture::{Shape, Tunnel, any};
use ipsec::algorithm::{Cipher, Integrity, KeyMaterial};
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::{KnownAnswer, OutboundSa};
use ipsec::sa::{Mode, Protocol, SaParameters, Spi};
use serde::Deserialize;
use wire::ip::Ip;
use wire::{ipv4, protocol};

#[derive(Deserialize)]
struct File {
    vectors: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    id: String,
    proto: String,
    mode: String,
    spi: u32,
    seq: u64,
    esn: bool,
    enc: Enc,
    auth: Auth,
    packet_start: String,
    packet: String,
    iv: Option<String>,
    plain: String,
    next_header: Option<u8>,
}

#[derive(Deserialize)]
struct Enc {
    alg: String,
    key: Option<String>,
    salt: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    alg: String,
    key: Option<String>,
    icv_len: u8,
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn records() -> Vec<Record> {
    let file = include_str!("../vectors/esp_ah_packets.json");
    serde_json::from_str::<File>(file).unwrap().vectors
}

/// Puts an IP header before a packet that was published without one.
fn with_outer_header(record: &Record) -> Vec<u8> {
    let mut packet = unhex(&record.packet);
    if record.packet_start == "esp" {
        let header = ipv4::Header {
            traffic_class: 0,
            total_len: 20 + packet.len() as u16,
            id: 0,
            dont_fragment: true,
            ttl: 64,
            protocol: protocol::ESP,
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
        };
        packet.splice(..0, header.emit());
    }
    packet
}

/// What the record protects: an inner packet, or for records that are a bare payload (no IP packet is
/// promised by their next header) what transport mode would carry.
struct Case {
    shape: Shape,
    parameters: Box<dyn Fn(bool) -> SaParameters>,
    outer: Vec<u8>,
    plain: Vec<u8>,
    iv: Vec<u8>,
}

fn case(record: &Record, cipher: Cipher, integrity: Option<Integrity>) -> Case {
    let outer = with_outer_header(record);
    let ip = Ip::parse(&outer).unwrap();
    let (source, destination) = (ip.source(), ip.destination());
    let mut plain = unhex(&record.plain);
    let mode = if record.mode == "tunnel" { Mode::Tunnel } else { Mode::Transport };
    if record.mode == "payload" {
        let pad_len = plain[plain.len() - 2];
        plain.truncate(plain.len() - 2 - usize::from(pad_len));
        let header = ipv4::Header {
            traffic_class: 0,
            total_len: 20 + plain.len() as u16,
            id: 0,
            dont_fragment: true,
            ttl: 64,
            protocol: record.next_header.unwrap(),
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
        };
        plain.splice(..0, header.emit());
    }
    let hex = |text: &Option<String>| text.as_deref().map(unhex).unwrap_or_default();
    let key = [hex(&record.enc.key), hex(&record.enc.salt)].concat();
    let mac_key = hex(&record.auth.key);
    let (spi, esn) = (record.spi, record.esn);
    let protocol = if record.proto == "ah" { Protocol::Ah } else { Protocol::Esp };
    let shape = Shape { protocol, cipher, integrity, mode, esn, ..Shape::default() };
    let template = shape.clone();
    let parameters = move |sending| {
        let mut parameters = if sending { template.sending() } else { template.receiving() };
        parameters.spi = Spi::for_known_answer(spi);
        parameters.transform.cipher_key = KeyMaterial::new(key.clone());
        let mac = integrity.map(|i| (i, KeyMaterial::new(mac_key.clone())));
        parameters.transform.integrity = mac;
        parameters.selectors = vec![any(false)];
        (parameters.local, parameters.remote) =
            if sending { (source, destination) } else { (destination, source) };
        parameters
    };
    let iv = hex(&record.iv);
    Case { shape, parameters: Box::new(parameters), outer, plain, iv }
}

/// The records whose transforms this crate has. The others are: DES; those whose integrity key was not
/// published, or that have none, which no SA may have (RFC 8221 §4).
fn known() -> impl Iterator<Item = (Record, Cipher, Option<Integrity>)> {
    records().into_iter().filter_map(|record| {
        let cipher = match &record.enc.alg[..] {
            "AES_GCM" => Cipher::AesGcm(record.auth.icv_len),
            "CHACHA20_POLY1305" => Cipher::ChaCha20Poly1305,
            "AES_CBC" => Cipher::AesCbc,
            "AES_CTR" => Cipher::AesCtr,
            "3DES_CBC" => Cipher::TripleDesCbc,
            "NULL" => Cipher::Null,
            _ => return None,
        };
        let integrity = match (&record.auth.alg[..], &record.auth.key) {
            ("AEAD", _) => None,
            ("HMAC_MD5", Some(_)) => Some(Integrity::HmacMd5_96),
            ("HMAC_SHA2_256", Some(_)) => Some(Integrity::HmacSha256_128),
            ("HMAC_SHA2_384", Some(_)) => Some(Integrity::HmacSha384_192),
            _ => return None,
        };
        Some((record, cipher, integrity))
    })
}

#[test]
fn published_packets_open_to_their_plaintext() {
    let mut count = 0;
    for (record, cipher, integrity) in known() {
        let case = case(&record, cipher, integrity);
        let sending = OutboundSa::new(&(case.parameters)(true)).unwrap();
        let receiving = InboundSa::new(&(case.parameters)(false)).unwrap();
        let receiving = receiving.resume_at(64, record.seq).unwrap();
        let mut tunnel = Tunnel::with(case.shape, sending, receiving);
        let header = protected(&case.outer);
        let (outcome, _, plain) = tunnel.open_as(&case.outer, header);
        assert!(
            matches!(outcome, ipsec::inbound::Outcome::Accepted(_)),
            "{}: {outcome:?}",
            record.id
        );
        assert_eq!(plain, case.plain, "{}", record.id);
        count += 1;
    }
    assert_eq!(count, 17);
}

#[test]
fn sealing_the_plaintext_gives_the_published_packets() {
    for (record, cipher, integrity) in known() {
        let case = case(&record, cipher, integrity);
        let sending = OutboundSa::new(&(case.parameters)(true)).unwrap();
        let sending = sending.for_known_answer(KnownAnswer {
            sequence: record.seq,
            iv: &case.iv,
            pad_len: None,
            identification: Some(u16::from_be_bytes([case.outer[4], case.outer[5]])),
        });
        let receiving = InboundSa::new(&(case.parameters)(false)).unwrap();
        let mut tunnel = Tunnel::with(case.shape, sending, receiving);
        let sealed = tunnel.sealed(&case.plain);
        // The outer header's identification, flags and TTL are this gateway's own.
        assert_eq!(sealed[20..], case.outer[20..], "{}", record.id);
        assert_eq!(sealed[2..4], case.outer[2..4], "{}", record.id);
        assert_eq!(sealed[12..20], case.outer[12..20], "{}", record.id);
    }
}

fn protected(packet: &[u8]) -> ipsec::classify::Protected {
    use ipsec::classify::{Class, LocalAddresses, classify};
    let destination = Ip::parse(packet).unwrap().destination();
    match classify(packet, &LocalAddresses::new([destination]), 4500) {
        Ok(Class::Protected(header)) => header,
        other => panic!("taken for {other:?}"),
    }
}
