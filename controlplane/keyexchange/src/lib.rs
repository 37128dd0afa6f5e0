//! Diffie-Hellman groups and key encapsulation over the crypto library.
