//! IKEv1 (RFC 2407, RFC 2408, RFC 2409): one ISAKMP SA and its exchanges.
//!
//! ```text
//!  initiator                                            responder
//!  SaSent ────────────── HDR, SA ──────────────────────► KeyExpected
//!  Keying ◄───────────── HDR, SA ──────────────────────     │
//!   └job► KeySent ────── HDR, KE, Ni, NAT-D ───────────► Answering ─job─┐
//!  Finishing ◄────────── HDR, KE, Nr, NAT-D ──────────── AuthExpected ◄─┘
//!   └job► AuthSent ───── HDR*, IDii, HASH_I ───────────►    │
//!  Established ◄──────── HDR*, IDir, HASH_R ──────────── Established
//!
//!  quick mode:           HDR*, HASH(1), SA, Ni [, KE] [, IDci, IDcr] ─►
//!                     ◄─ HDR*, HASH(2), SA, Nr [, KE] [, IDci, IDcr]
//!                        HDR*, HASH(3) ─►
//! ```
//!
//! | module | what |
//! |---|---|
//! | `sa` | the ISAKMP SA: its states, and the dispatch of inputs to them |
//! | `initiate`, `respond` | main mode as initiator and as responder |
//! | `initiate::aggressive`, `aggressive` | the three messages of aggressive mode, both sides |
//! | `phase1` | what all ways through phase 1 have alike |
//! | `authenticate` | which preshared key, and whose identity |
//! | `kerberos` | main mode by GSS-API: names, tokens, hashes |
//! | `suite`, `offer` | what is offered and chosen in phase 1 and in phase 2 |
//! | `fragment` | messages in pieces |
//! | `vendor` | vendor IDs, NAT detection |
//! | `session` | keys in use: encryption with its chain of vectors, HASH payloads |
//! | `established` | messages, timers and children of an established ISAKMP SA |
//! | `quick` | quick mode, both sides |
//! | `successor` | what goes over from one ISAKMP SA to another |
//! | `volume` | lifetimes of phase 1 in kilobytes |
//! | `informational` | deletes, notifies, dead peer detection |
//! | `transaction` | XAUTH and Mode Config |
//! | `clients` | the identities of quick mode as traffic selectors |
//! | `show` | the views |
//!
//! Nothing here changes for a message that is not authentic: a clear notify is logged, and a message that does not
//! decrypt to what its HASH says leaves keys, vectors and timers as they are.

pub(crate) use offer::is_sayable;
pub(crate) use suite::usable as is_usable;

pub(crate) mod aggressive;
pub(crate) mod authenticate;
mod clients;
pub(crate) mod established;
pub(crate) mod fragment;
mod informational;
pub(crate) mod initiate;
mod kerberos;
mod offer;
pub(crate) mod phase1;
pub(crate) mod quick;
pub(crate) mod respond;
pub(crate) mod sa;
mod session;
mod show;
mod signature;
pub(crate) mod successor;
mod suite;
mod transaction;
mod vendor;
mod volume;
