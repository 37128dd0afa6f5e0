//! Operations of the dataplane: transforms, whole packets, replay windows.

use ipsec::accounting::Totals;
use ipsec::aead::{
    Aad, Engine, GcmKey, JobError, NONCE_LEN, OpenJob, SealJob, TAG_LEN, open_burst, seal_burst,
};
use ipsec::algorithm::{Cipher, Integrity, KeyMaterial};
use ipsec::classify::{Class, LocalAddresses, Protected, classify};
use ipsec::drop_cause::DropCause;
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::{KnownAnswer, OutboundSa};
use ipsec::esp::transform::{BlockMode, Combined, Mac};
use ipsec::inbound::{self, InboundPacket};
use ipsec::outbound::{self, OutboundPacket};
use ipsec::packet::{OwnedPacket, PacketBuffer};
use ipsec::replay::ReplayWindow;
use ipsec::sa::{
    DscpRule, HeaderRules, Lifetime, Mode, PairId, Protocol, SaError, SaParameters, Spi, Transform,
    UdpEncap,
};
use ipsec::sad::{InboundSad, OutboundSad, Slot};
use ipsec::selector::{AddressRange, Ports, Selector};
use serde_json::{Value, json};
use std::net::IpAddr;
use wire::ip::Ip;
use wire::{esp, ipv4};

use super::request::{Fault, Request, to_hex};
use super::{Answer, Operation};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "aead_seal", algorithms: aead_names, run: aead_seal },
    Operation { name: "aead_open", algorithms: aead_names, run: aead_open },
    Operation { name: "aead_burst", algorithms: aead_names, run: aead_burst },
    Operation { name: "cipher", algorithms: || CIPHERS.to_vec(), run: cipher },
    Operation { name: "mac", algorithms: || MACS.to_vec(), run: mac },
    Operation { name: "esp_open", algorithms: esp_names, run: open },
    Operation { name: "esp_seal", algorithms: esp_names, run: seal },
    Operation { name: "ah_open", algorithms: ah_names, run: open },
    Operation { name: "ah_seal", algorithms: ah_names, run: seal },
    Operation { name: "replay", algorithms: Vec::new, run: replay },
];

const AEADS: &[&str] = &["AES_GCM", "CHACHA20_POLY1305", "AES_CCM", "AES_GMAC"];
/// RFC 4309 §4.
const CCM_NONCE_LEN: usize = 11;
/// The last is weak (RFC 8221 §5): known answers only, and SAs of gateways that say `legacy = yes`.
const CIPHERS: &[&str] = &["AES_CBC", "AES_CTR", "3DES_CBC"];
/// The last is weak (RFC 8221 §6).
const MACS: &[&str] = &[
    "HMAC_SHA1",
    "HMAC_SHA2_256",
    "HMAC_SHA2_384",
    "HMAC_SHA2_512",
    "AES_CMAC",
    "AES_XCBC",
    "HMAC_MD5",
];

/// The engines are listed behind the algorithms, as `engine=`.
fn aead_names() -> Vec<&'static str> {
    AEADS.iter().copied().chain(Engine::available().map(Engine::name)).collect()
}

fn esp_names() -> Vec<&'static str> {
    [AEADS, CIPHERS, &["NULL"], MACS].concat()
}

fn ah_names() -> Vec<&'static str> {
    [MACS, &["AES_GMAC"]].concat()
}

fn fields(object: Value) -> Answer {
    match object {
        Value::Object(fields) => fields,
        _ => Answer::new(),
    }
}

impl From<JobError> for Fault {
    fn from(error: JobError) -> Self {
        match error {
            JobError::TagLength => Self::Unsupported,
            JobError::LengthMismatch | JobError::TooLong => Self::Malformed,
        }
    }
}

impl From<SaError> for Fault {
    /// Key lengths are the request's; everything else an SA refuses is what it does not have.
    fn from(error: SaError) -> Self {
        match error {
            SaError::CipherKeyLength { .. } | SaError::IntegrityKeyLength { .. } => Self::Malformed,
            _ => Self::Unsupported,
        }
    }
}

/// One AEAD request with its key made.
struct Aead {
    key: AeadKey,
    nonce: Vec<u8>,
    aad: Vec<u8>,
    text: Vec<u8>,
    tag: Vec<u8>,
}

enum AeadKey {
    Gcm(GcmKey, Engine, [u8; NONCE_LEN]),
    Combined(Box<Combined>),
}

impl Aead {
    /// `engine` is that of the burst, which a packet's own one overrides.
    fn read(
        request: &Request<'_>,
        engine: Option<&str>,
        text: &str,
        opening: bool,
    ) -> Result<Self, Fault> {
        let (key, nonce) = (request.bytes("key")?, request.bytes("nonce")?);
        let tag_len: usize = request.number("tag_len")?;
        let combined = |cipher| Combined::new(cipher, &key).ok_or(Fault::Unsupported);
        let key = match request.text("alg")? {
            "AES_GCM" | "AES_GMAC" => {
                let engine = match request.optional_text("engine")?.or(engine) {
                    None => Engine::best(),
                    Some(name) => Engine::named(name).ok_or(Fault::Unsupported)?,
                };
                let key = GcmKey::with_engine(engine, &key).map_err(|_| Fault::Unsupported)?;
                let nonce = nonce[..].try_into().map_err(|_| Fault::Unsupported)?;
                AeadKey::Gcm(key, engine, nonce)
            }
            "CHACHA20_POLY1305" if tag_len == TAG_LEN && nonce.len() == NONCE_LEN => {
                AeadKey::Combined(Box::new(combined(Cipher::ChaCha20Poly1305)?))
            }
            "AES_CCM" if nonce.len() == CCM_NONCE_LEN => {
                let icv = u8::try_from(tag_len).map_err(|_| Fault::Unsupported)?;
                AeadKey::Combined(Box::new(combined(Cipher::AesCcm(icv))?))
            }
            _ => return Err(Fault::Unsupported),
        };
        // No transform here has a longer one, and a length is not trusted before that is known.
        if tag_len > TAG_LEN {
            return Err(Fault::Unsupported);
        }
        let tag = if opening { request.bytes("tag")? } else { vec![0; tag_len] };
        if tag.len() != tag_len {
            return Err(Fault::Malformed);
        }
        Ok(Self {
            key,
            nonce,
            aad: request.optional_bytes("aad")?.unwrap_or_default(),
            text: request.optional_bytes(text)?.unwrap_or_default(),
            tag,
        })
    }

    fn engine(&self) -> &'static str {
        match &self.key {
            AeadKey::Gcm(_, engine, _) => engine.name(),
            AeadKey::Combined(_) => "library",
        }
    }
}

/// Seals all as one burst; what is done packet by packet anyway is done beside it.
fn seal_all(packets: &mut [Aead]) -> Vec<Result<Answer, Fault>> {
    let mut failed = vec![None; packets.len()];
    let mut burst = Vec::new();
    for (packet, failed) in packets.iter_mut().zip(&mut failed) {
        let Aead { key, nonce, aad, text, tag } = packet;
        *failed = match key {
            AeadKey::Gcm(key, _, nonce) => {
                let job = SealJob::in_place(&*key, *nonce, Aad::new(aad), text, tag);
                job.map(|job| burst.push(job)).err().map(Fault::from)
            }
            AeadKey::Combined(key) => {
                key.seal(nonce, aad, text, tag).err().map(|_| Fault::Unsupported)
            }
        };
    }
    seal_burst(&mut burst);
    drop(burst);
    let answers = packets.iter().zip(failed).map(|(packet, failed)| match failed {
        Some(fault) => Err(fault),
        None => Ok(fields(json!({
            "cipher": to_hex(&packet.text),
            "tag": to_hex(&packet.tag),
            "engine": packet.engine(),
        }))),
    });
    answers.collect()
}

/// Opens all as one burst.
fn open_all(packets: &mut [Aead]) -> Vec<Result<Answer, Fault>> {
    let mut failed = vec![None; packets.len()];
    let (mut burst, mut places) = (Vec::new(), Vec::new());
    for (place, packet) in packets.iter_mut().enumerate() {
        let Aead { key, nonce, aad, text, tag } = packet;
        failed[place] = match key {
            AeadKey::Gcm(key, _, nonce) => {
                let job = OpenJob::in_place(&*key, *nonce, Aad::new(aad), text, tag);
                places.push(place);
                job.map(|job| burst.push(job)).err().map(Fault::from)
            }
            AeadKey::Combined(key) => key.open(nonce, aad, text, tag).err().map(|_| Fault::Auth),
        };
    }
    let started = places.iter().filter(|&&place| failed[place].is_none());
    let started: Vec<_> = started.copied().collect();
    open_burst(&mut burst);
    let verdicts: Vec<_> = burst.iter().map(|job| job.verdict().is_ok()).collect();
    drop(burst);
    for (place, authentic) in started.into_iter().zip(verdicts) {
        if !authentic {
            failed[place] = Some(Fault::Auth);
        }
    }
    let answers = packets.iter().zip(failed).map(|(packet, failed)| match failed {
        Some(fault) => Err(fault),
        None => Ok(fields(json!({
            "plain": to_hex(&packet.text),
            "engine": packet.engine(),
        }))),
    });
    answers.collect()
}

fn aead_seal(request: &Request<'_>) -> Result<Answer, Fault> {
    let packet = Aead::read(request, None, "plain", false)?;
    seal_all(&mut [packet]).pop().ok_or(Fault::Malformed)?
}

fn aead_open(request: &Request<'_>) -> Result<Answer, Fault> {
    let packet = Aead::read(request, None, "cipher", true)?;
    open_all(&mut [packet]).pop().ok_or(Fault::Malformed)?
}

/// A packet that cannot be read has its own fault; the others are done all the same.
fn aead_burst(request: &Request<'_>) -> Result<Answer, Fault> {
    let engine = request.optional_text("engine")?;
    let packets = request.optional("packets").and_then(Value::as_array).ok_or(Fault::Malformed)?;
    let requests: Option<Vec<_>> =
        packets.iter().map(|packet| packet.as_object().map(Request::new)).collect();
    let requests = requests.ok_or(Fault::Malformed)?;
    let op = requests.first().map_or(Ok("aead_seal"), |first| first.text("op"))?;
    let opening = match op {
        "aead_seal" => false,
        "aead_open" => true,
        _ => return Err(Fault::Malformed),
    };
    let text = if opening { "cipher" } else { "plain" };
    let mut faults = Vec::new();
    let mut ready = Vec::new();
    for request in &requests {
        if request.text("op")? != op {
            return Err(Fault::Malformed);
        }
        match Aead::read(request, engine, text, opening) {
            Ok(packet) => {
                ready.push(packet);
                faults.push(None);
            }
            Err(fault) => faults.push(Some(fault)),
        }
    }
    let done = if opening { open_all(&mut ready) } else { seal_all(&mut ready) };
    let mut done = done.into_iter();
    let answers: Vec<Value> = faults
        .into_iter()
        .map(|fault| {
            let result = fault.map_or_else(|| done.next().unwrap_or(Err(Fault::Malformed)), Err);
            match result {
                Ok(mut answer) => {
                    answer.insert("ok".to_owned(), Value::Bool(true));
                    Value::Object(answer)
                }
                Err(fault) => json!({ "ok": false, "error": fault.name() }),
            }
        })
        .collect();
    Ok(fields(json!({ "answers": answers })))
}

fn cipher(request: &Request<'_>) -> Result<Answer, Fault> {
    let cipher = match request.text("alg")? {
        "AES_CBC" => Cipher::AesCbc,
        "AES_CTR" => Cipher::AesCtr,
        "3DES_CBC" => Cipher::TripleDesCbc,
        _ => return Err(Fault::Unsupported),
    };
    let key = BlockMode::new(cipher, &request.bytes("key")?).ok_or(Fault::Unsupported)?;
    let (iv, mut text) = (request.bytes("iv")?, request.bytes("in")?);
    match request.text("dir")? {
        "encrypt" => key.encrypt(&iv, &mut text),
        "decrypt" => key.decrypt(&iv, &mut text),
        _ => return Err(Fault::Malformed),
    }
    .map_err(|_| Fault::Malformed)?;
    Ok(fields(json!({ "out": to_hex(&text) })))
}

fn mac(request: &Request<'_>) -> Result<Answer, Fault> {
    let integrity = integrity_of(request.text("alg")?)?;
    let mac = Mac::new(integrity, &request.bytes("key")?).ok_or(Fault::Unsupported)?;
    let (tag, whole) = mac.tag(&[&request.bytes("msg")?]);
    let len = request.optional_number("len")?.unwrap_or(whole);
    let tag = tag[..whole].get(..len).ok_or(Fault::Malformed)?;
    Ok(fields(json!({ "tag": to_hex(tag) })))
}

fn integrity_of(name: &str) -> Result<Integrity, Fault> {
    Ok(match name {
        "HMAC_SHA1" => Integrity::HmacSha1_96,
        "HMAC_SHA2_256" => Integrity::HmacSha256_128,
        "HMAC_SHA2_384" => Integrity::HmacSha384_192,
        "HMAC_SHA2_512" => Integrity::HmacSha512_256,
        "AES_CMAC" => Integrity::AesCmac96,
        "AES_XCBC" => Integrity::AesXcbc96,
        "HMAC_MD5" => Integrity::HmacMd5_96,
        _ => return Err(Fault::Unsupported),
    })
}

fn replay(request: &Request<'_>) -> Result<Answer, Fault> {
    let size = request.number("window")?;
    let extended = request.optional("esn").and_then(Value::as_bool).unwrap_or(false);
    let start =
        |highest| ReplayWindow::resume(size, extended, highest).map_err(|_| Fault::Unsupported);
    let mut window = start(0)?;
    let mut verdicts = Vec::new();
    let steps = request.optional("steps").and_then(Value::as_array).ok_or(Fault::Malformed)?;
    for step in steps {
        let step = Request::new(step.as_object().ok_or(Fault::Malformed)?);
        if let Some(highest) = step.optional_number("set_state")? {
            window = start(highest)?;
            continue;
        }
        let sequence: u64 = step.number("seq")?;
        verdicts.push(match window.check(sequence as u32) {
            Err(_) => "replay",
            // The ICV covers the high half, so a wrong guess does not verify.
            Ok(candidate) if extended && candidate.sequence() != sequence => "integrity",
            Ok(candidate) => match window.accept(&candidate) {
                Ok(_) => "accept",
                Err(_) => "replay",
            },
        });
    }
    Ok(fields(json!({ "verdicts": verdicts })))
}

/// A record of a published packet.
struct Record {
    /// The packet, behind an IP header in any case.
    packet: Vec<u8>,
    /// How much of that header is not the record's.
    added: usize,
    header: Protected,
    source: IpAddr,
    destination: IpAddr,
    mode: Mode,
    iv_len: usize,
    icv_len: usize,
    sequence: u64,
}

impl Record {
    fn read(request: &Request<'_>) -> Result<(Self, SaParameters), Fault> {
        let protocol = match (request.text("op")?, request.text("proto")?) {
            ("esp_open" | "esp_seal", "esp") => Protocol::Esp,
            ("ah_open" | "ah_seal", "ah") => Protocol::Ah,
            _ => return Err(Fault::Malformed),
        };
        let mut packet = request.bytes("packet")?;
        let added = match request.text("packet_start")? {
            "ip" => 0,
            "esp" => {
                packet = behind_ip_header(&packet, wire::protocol::ESP)?;
                ipv4::MIN_HEADER_LEN
            }
            "udp" => {
                packet = behind_ip_header(&packet, wire::protocol::UDP)?;
                ipv4::MIN_HEADER_LEN
            }
            _ => return Err(Fault::Unsupported),
        };
        let ip = Ip::parse(&packet).map_err(|_| Fault::Malformed)?;
        let (source, destination) = (ip.source(), ip.destination());
        let local = LocalAddresses::new([destination]);
        let class = classify(&packet, &local, esp::UDP_PORT).map_err(|_| Fault::Malformed)?;
        let Class::Protected(header) = class else { return Err(Fault::Malformed) };
        if header.protocol != protocol {
            return Err(Fault::Malformed);
        }
        // A bare payload promises nothing about what it carries, which is what transport mode takes.
        let mode = match (request.text("mode")?, request.text("plain_is")?) {
            ("tunnel", "inner_ip") => Mode::Tunnel,
            _ => Mode::Transport,
        };
        let transform = transform(request)?;
        let (cipher, integrity) =
            (transform.cipher, transform.integrity.as_ref().map(|(integrity, _)| *integrity));
        let icv_len = match cipher {
            Cipher::AesGcm(icv) | Cipher::AesCcm(icv) => usize::from(icv),
            Cipher::AesGmac | Cipher::ChaCha20Poly1305 => TAG_LEN,
            _ => integrity.map_or(0, Integrity::icv_len),
        };
        let any = |address: IpAddr| -> Result<Selector, Fault> {
            let all = AddressRange::prefix(address, 0).ok_or(Fault::Malformed)?;
            Ok(Selector {
                local: all,
                remote: all,
                protocol: None,
                local_ports: Ports::Any,
                remote_ports: Ports::Any,
            })
        };
        let esn = request.optional("esn").and_then(Value::as_bool).unwrap_or(false);
        let parameters = SaParameters {
            pair: PairId(0),
            spi: Spi::for_known_answer(request.number("spi")?),
            protocol,
            mode,
            local: destination,
            remote: source,
            encap: header
                .source_port
                .map(|remote_port| UdpEncap { local_port: esp::UDP_PORT, remote_port }),
            transform,
            esn,
            replay_window: 64,
            selectors: vec![any([0, 0, 0, 0].into())?, any([0u16; 8].into())?],
            later_fragments: false,
            lifetime: Lifetime::default(),
            headers: HeaderRules { dscp: DscpRule::None, ecn: false, ..HeaderRules::default() },
        };
        let record = Self {
            packet,
            added,
            header,
            source,
            destination,
            mode,
            iv_len: cipher.iv_len(),
            icv_len,
            sequence: request.number("seq")?,
        };
        Ok((record, parameters))
    }

    /// Bytes of what is encrypted, trailer included.
    fn text_len(&self) -> Result<usize, Fault> {
        let whole = usize::from(self.header.end) - usize::from(self.header.offset);
        let fixed = esp::HEADER_LEN + self.iv_len + self.icv_len;
        whole.checked_sub(fixed).ok_or(Fault::Malformed)
    }
}

fn behind_ip_header(payload: &[u8], protocol: u8) -> Result<Vec<u8>, Fault> {
    let total_len = u16::try_from(ipv4::MIN_HEADER_LEN + payload.len());
    let header = ipv4::Header {
        traffic_class: 0,
        total_len: total_len.map_err(|_| Fault::Malformed)?,
        id: 0,
        dont_fragment: true,
        ttl: 64,
        protocol,
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 2].into(),
    };
    Ok([&header.emit()[..], payload].concat())
}

fn transform(request: &Request<'_>) -> Result<Transform, Fault> {
    let (enc, auth) = (request.object("enc")?, request.object("auth")?);
    let icv_len: u8 = auth.number("icv_len")?;
    let mut key = enc.optional_bytes("key")?.unwrap_or_default();
    key.extend(enc.optional_bytes("salt")?.unwrap_or_default());
    if auth.text("alg")? == "AES_GMAC" {
        // A transform of AH; with ESP it is one that stands where the cipher does (RFC 4543 §9).
        if let Some(auth_key) = auth.optional_bytes("key")? {
            let salt = auth.optional_bytes("salt")?.unwrap_or_default();
            key = [auth_key, salt, enc.optional_bytes("salt")?.unwrap_or_default()].concat();
        }
        let key = KeyMaterial::new(key);
        return Ok(match request.text("proto")? {
            "ah" => Transform {
                cipher: Cipher::Null,
                cipher_key: KeyMaterial::new(Vec::new()),
                integrity: Some((Integrity::AesGmac, key)),
            },
            _ => Transform { cipher: Cipher::AesGmac, cipher_key: key, integrity: None },
        });
    }
    let cipher = match enc.text("alg")? {
        "AES_CBC" => Cipher::AesCbc,
        "3DES_CBC" => Cipher::TripleDesCbc,
        "AES_CTR" => Cipher::AesCtr,
        "AES_GCM" => Cipher::AesGcm(icv_len),
        "AES_CCM" => Cipher::AesCcm(icv_len),
        "AES_GMAC" => Cipher::AesGmac,
        "CHACHA20_POLY1305" => Cipher::ChaCha20Poly1305,
        "NULL" => Cipher::Null,
        _ => return Err(Fault::Unsupported),
    };
    let integrity = match auth.text("alg")? {
        "AEAD" | "NULL" => None,
        name => {
            let integrity = integrity_of(name)?;
            if integrity.icv_len() != usize::from(icv_len) {
                return Err(Fault::Unsupported);
            }
            // Not published: what no SA can be made of.
            let mut key = auth.optional_bytes("key")?.ok_or(Fault::Unsupported)?;
            if name.starts_with("HMAC") && key.len() < integrity.key_len() {
                // HMAC's own padding (RFC 2104 §2), so that a published key may be shorter than an SA's.
                key.resize(integrity.key_len(), 0);
            }
            Some((integrity, KeyMaterial::new(key)))
        }
    };
    Ok(Transform { cipher, cipher_key: KeyMaterial::new(key), integrity })
}

fn open(request: &Request<'_>) -> Result<Answer, Fault> {
    let (record, parameters) = Record::read(request)?;
    let text_len = record.text_len();
    let sa = InboundSa::new(&parameters)?;
    let sa =
        if parameters.esn { sa.resume_at(parameters.replay_window, record.sequence)? } else { sa };
    let spi = sa.spi();
    let mut sad = InboundSad::over(spi.core(), spi.slot()..spi.slot() + 1);
    sad.insert(Box::new(sa)).map_err(|_| Fault::Malformed)?;
    let packet = OwnedPacket::new(&record.packet, 0, 0);
    let mut burst = [InboundPacket::new(packet, record.header)];
    inbound::process_burst(&mut sad, &mut burst, &mut Totals::default());
    let [InboundPacket { mut buffer, outcome, .. }] = burst;
    match outcome {
        inbound::Outcome::Accepted(_) => {}
        inbound::Outcome::Dropped(DropCause::NotAuthentic) => return Err(Fault::Auth),
        inbound::Outcome::Dropped(DropCause::UnknownSpi) => return Err(Fault::Spi),
        _ => return Err(Fault::Malformed),
    }
    let plain = buffer.data().to_vec();
    if record.header.protocol == Protocol::Ah {
        let next_header = record.packet[usize::from(record.header.offset)];
        let plain = match request.text("plain_is")? {
            "inner_ip" | "original_ip" => &plain[..],
            "ip_payload" => &plain[record.header.ip_len()..],
            _ => return Err(Fault::Unsupported),
        };
        return Ok(fields(json!({ "plain": to_hex(plain), "next_header": next_header })));
    }
    // The padding and trailer that were cut off are still behind the packet.
    let carried_at = if record.mode == Mode::Tunnel { 0 } else { record.header.ip_len() };
    let text_end = carried_at + text_len?;
    buffer.set_len(text_end).map_err(|_| Fault::Malformed)?;
    let text = &buffer.data()[carried_at..];
    let next_header = text.last().copied().ok_or(Fault::Malformed)?;
    let plain = match request.text("plain_is")? {
        "inner_ip" | "original_ip" => &plain[..],
        "ip_payload" => &plain[carried_at..],
        "esp_payload_with_trailer" => text,
        _ => return Err(Fault::Unsupported),
    };
    Ok(fields(json!({ "plain": to_hex(plain), "next_header": next_header })))
}

fn seal(request: &Request<'_>) -> Result<Answer, Fault> {
    let (record, mut parameters) = Record::read(request)?;
    (parameters.local, parameters.remote) = (record.source, record.destination);
    parameters.encap = parameters.encap.map(|UdpEncap { local_port, remote_port }| UdpEncap {
        local_port: remote_port,
        remote_port: local_port,
    });
    let mut pad_len = request.optional_number("pad_len")?;
    let plain = request.bytes("plain")?;
    let plain = match request.text("plain_is")? {
        "inner_ip" | "original_ip" => plain,
        "ip_payload" => behind_ip_header(&plain, request.number("next_header")?)?,
        "esp_payload_with_trailer" => {
            let (rest, &[pad, next_header]) = plain.split_last_chunk().ok_or(Fault::Malformed)?;
            let payload = rest.len().checked_sub(usize::from(pad)).ok_or(Fault::Malformed)?;
            pad_len = Some(pad);
            behind_ip_header(&rest[..payload], next_header)?
        }
        _ => return Err(Fault::Unsupported),
    };
    let iv = request.optional_bytes("iv")?.unwrap_or_default();
    let identification = record.packet.get(4..6).map(|id| u16::from_be_bytes([id[0], id[1]]));
    let mut sa = OutboundSa::new(&parameters)?.for_known_answer(KnownAnswer {
        sequence: record.sequence,
        iv: &iv,
        pad_len,
        identification,
    });
    sa.set_path_mtu(u16::MAX);
    let (headroom, tailroom) = (sa.headroom(), sa.tailroom() + usize::from(u8::MAX));
    let mut sad = OutboundSad::new(1);
    sad.insert(Slot(0), Box::new(sa)).map_err(|_| Fault::Malformed)?;
    let packet = OwnedPacket::new(&plain, headroom, tailroom);
    let mut burst = [OutboundPacket::new(packet, Slot(0))];
    outbound::process_burst(&mut sad, &mut burst, &mut Totals::default());
    let [OutboundPacket { buffer, outcome, .. }] = burst;
    if outcome != outbound::Outcome::Sealed {
        return Err(Fault::Malformed);
    }
    // The outer header is the record's; what is behind it is ours.
    let outer = usize::from(record.header.offset);
    let ours = [record.destination];
    let sealed = buffer.data();
    let remote = Ip::parse(sealed).map_err(|_| Fault::Malformed)?.destination();
    let local = LocalAddresses::new(ours.into_iter().chain([remote]));
    let Ok(Class::Protected(header)) = classify(sealed, &local, esp::UDP_PORT) else {
        return Err(Fault::Malformed);
    };
    let made = &sealed[usize::from(header.offset)..];
    let packet = [&record.packet[record.added..outer], made].concat();
    Ok(fields(json!({ "packet": to_hex(&packet) })))
}

#[cfg(test)]
mod tests;
