//! Two engines joined back to back under a virtual clock.

mod addresses;
mod attacks;
mod certificates;
mod collisions;
mod exchanges;
mod fragments;
mod harness;
mod ikev1;
mod ikev1_attacks;
mod ikev1_collisions;
mod ikev1_commit;
mod ikev1_config;
mod ikev1_contact;
mod ikev1_modes;
mod ikev1_nat;
mod ikev1_rules;
mod ikev1_statistics;
mod ikev1_terms;
mod ikev1_users;
mod kerberos;
mod lossy;
mod soft;
mod statistics;
