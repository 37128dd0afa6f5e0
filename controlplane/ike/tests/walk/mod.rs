//! Reads everything there is to read in a message: whatever accessor can panic, panics here. The tests and the fuzz target
//! share it.

use ike::message::{Emit, Message, PayloadList, v1, v2};

/// Parses `datagram`, visits every part of it, and returns what its parsed form emits: equal to the datagram where
/// that is canonical. `None` when it does not parse.
pub(crate) fn walk(datagram: &[u8]) -> Option<Vec<u8>> {
    let message = Message::parse_any_spi(datagram).ok()?;
    let mut list = PayloadList::new();
    match &message {
        Message::V1(message) => {
            let v1::Body::Plain(payloads) = message.body else {
                // Emitted by the cipher, not by a list.
                return Some(datagram.to_vec());
            };
            for payload in payloads.iter() {
                push_v1(&mut list, payload);
            }
        }
        Message::V2(message) => {
            for (payload, raw) in message.payloads.iter().zip(&message.payloads.chain()) {
                push_v2(&mut list, payload, raw.number, raw.next, raw.body);
            }
            std::hint::black_box((
                message.encrypted().map(|sk| (sk.associated.len(), sk.content.len(), sk.fragment)),
                message.payloads.sa().is_some(),
                message.payloads.deletes().count(),
                message.payloads.notifies().count(),
            ));
        }
    }
    list.into_message(message.header()).ok()
}

fn push_v2(list: &mut PayloadList, payload: v2::Payload<'_>, number: u8, next: u8, body: &[u8]) {
    match payload {
        v2::Payload::Sa(sa) => {
            let owned: Option<Vec<_>> = sa
                .proposals()
                .map(|proposal| {
                    std::hint::black_box((proposal.esp_spi(), proposal.ike_spi()));
                    let transforms: Option<_> =
                        proposal.transforms().map(|transform| transform.understood()).collect();
                    Some(v2::Proposal {
                        number: proposal.number,
                        protocol: proposal.protocol,
                        spi: proposal.spi.to_vec(),
                        transforms: transforms?,
                    })
                })
                .collect();
            match owned {
                Some(proposals) => list.push(&v2::SaPayload { proposals: &proposals }),
                None => list.push(&sa),
            };
        }
        v2::Payload::KeyExchange(p) => drop(list.push(&p)),
        v2::Payload::IdI(p) => drop(list.push(&v2::IdentificationI(p))),
        v2::Payload::IdR(p) => drop(list.push(&v2::IdentificationR(p))),
        v2::Payload::Certificate(p) => drop(list.push(&p)),
        v2::Payload::CertRequest(p) => {
            std::hint::black_box(p.hashes().count());
            list.push(&p);
        }
        v2::Payload::Authentication(p) => drop(list.push(&p)),
        v2::Payload::Nonce(p) => drop(list.push(&p)),
        v2::Payload::Notify(p) => {
            std::hint::black_box(p.kind.is_error());
            list.push(&p);
        }
        v2::Payload::Delete(p) => {
            std::hint::black_box(p.spis().count());
            list.push(&p);
        }
        v2::Payload::VendorId(p) => drop(list.push(&p)),
        v2::Payload::TsI(p) => {
            let selectors: Vec<_> = p.iter().collect();
            list.push(&v2::TrafficSelectorsI(&selectors));
        }
        v2::Payload::TsR(p) => {
            let selectors: Vec<_> = p.iter().collect();
            list.push(&v2::TrafficSelectorsR(&selectors));
        }
        v2::Payload::Encrypted | v2::Payload::EncryptedFragment => {
            list.push_encrypted(number, next, body);
        }
        v2::Payload::Configuration(p) => {
            let mut attributes = Vec::new();
            p.attributes().for_each(|attribute| attribute.emit(&mut attributes));
            if let Ok(again) = v2::Configuration::new(p.kind, &attributes) {
                list.push(&again);
            }
        }
        v2::Payload::Eap(p) => drop(list.push(&p)),
        v2::Payload::Unknown(raw) => {
            list.push_raw(raw.number, raw.critical, raw.body);
        }
    }
}

fn push_v1(list: &mut PayloadList, payload: v1::Payload<'_>) {
    match payload {
        v1::Payload::Sa(sa) => {
            let proposals: Vec<_> = sa
                .proposals()
                .map(|proposal| v1::Proposal {
                    number: proposal.number,
                    protocol: proposal.protocol,
                    spi: proposal.spi.to_vec(),
                    transforms: proposal.transforms().map(own_transform).collect(),
                })
                .collect();
            list.push(&v1::SaPayload { proposals: &proposals });
            std::hint::black_box(sa.body().len());
        }
        v1::Payload::KeyExchange(p) => drop(list.push(&p)),
        v1::Payload::Identification(p) => drop(list.push(&p)),
        v1::Payload::Certificate(p) => drop(list.push(&p)),
        v1::Payload::CertRequest(p) => drop(list.push(&p)),
        v1::Payload::Hash(p) => drop(list.push(&p)),
        v1::Payload::Signature(p) => drop(list.push(&p)),
        v1::Payload::Nonce(p) => drop(list.push(&p)),
        v1::Payload::Notify(p) => {
            std::hint::black_box(v1::DpdNotify::from_data(p.data));
            list.push(&p);
        }
        v1::Payload::Delete(p) => {
            std::hint::black_box(p.spis().count());
            list.push(&p);
        }
        v1::Payload::VendorId(p) => drop(list.push(&p)),
        v1::Payload::Attributes(p) => drop(list.push(&p)),
        v1::Payload::GssToken(p) => drop(list.push(&p)),
        v1::Payload::NatDetection(p) => drop(list.push(&p)),
        v1::Payload::NatOriginalAddress(p) => drop(list.push(&p)),
        v1::Payload::Fragment(p) => {
            std::hint::black_box((v1::Fragment::number(&p), p.data().len(), p.payload_type()));
            list.push(&p);
        }
        v1::Payload::Unknown(raw) => {
            list.push_raw(raw.number, raw.critical, raw.body);
        }
    }
}

fn own_transform(transform: v1::TransformView<'_>) -> v1::Transform {
    let mut attributes = Vec::new();
    for attribute in transform.attributes.iter() {
        std::hint::black_box(attribute.value.number());
        attribute.emit(&mut attributes);
    }
    v1::Transform { number: transform.number, id: transform.id, attributes }
}
