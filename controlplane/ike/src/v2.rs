//! IKEv2 (RFC 7296): one IKE SA and its exchanges.
//!
//! ```text
//!  initiator                                              responder
//!  InitKeying ─job─► InitSent ──── IKE_SA_INIT ─────────► InitAnswering ─job─┐
//!  InitFinishing ◄───────────────────────────────────────────── AuthExpected ◄┘
//!     └─job─► AuthSent ─────────── IKE_AUTH ────────────►   │
//!  Established ◄────────────────────────────────────── Established ──► Closed
//! ```
//!
//! | module | what |
//! |---|---|
//! | `sa` | the IKE SA: what every state has, and the dispatch to the states |
//! | `init` | IKE_SA_INIT as initiator; `respond` as responder |
//! | `auth` | IKE_AUTH as initiator; `verify` as responder |
//! | `prove` | certificates and signatures of IKE_AUTH, made and checked by jobs |
//! | `addresses` | virtual addresses, by configuration payloads |
//! | `established` | requests, answers and timers of an established IKE SA |
//! | `create_child`, `rekey_child_answer` | CREATE_CHILD_SA for children |
//! | `rekey_ike` | CREATE_CHILD_SA for the IKE SA |
//! | `informational` | deletes and liveness |
//! | `child` | one Child SA: offer, answer, keys, installation |
//! | `window` | message IDs, retransmission, stored answers |
//! | `keys` | the IKE SA's keys in use |
//! | `task` | what waits for its turn |
//! | `fault` | what can be wrong, and what the peer is told |
//! | `fragments` | reassembly of encrypted fragments |
//! | `show` | the views |

pub(crate) mod addresses;
pub(crate) mod auth;
pub(crate) mod child;
pub(crate) mod create_child;
pub(crate) mod established;
pub(crate) mod fault;
pub(crate) mod fragments;
mod informational;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod prove;
pub(crate) mod rekey_ike;
pub(crate) mod respond;
pub(crate) mod sa;
mod show;
pub(crate) mod task;
mod verify;
pub(crate) mod window;
