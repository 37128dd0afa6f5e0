//! Numbers assigned by IANA, with every unassigned value kept as it came.

/// Declares one registry: an enum with its named values and `Unknown` for the rest.
macro_rules! registry {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A value that this registry does not name here.
            Unknown($repr),
        }

        impl $name {
            /// The number on the wire.
            pub const fn number(self) -> $repr {
                match self {
                    $(Self::$variant => $value,)*
                    Self::Unknown(n) => n,
                }
            }

            /// The value for a number from the wire.
            pub const fn from_number(number: $repr) -> Self {
                match number {
                    $($value => Self::$variant,)*
                    n => Self::Unknown(n),
                }
            }
        }

        impl From<$repr> for $name {
            fn from(number: $repr) -> Self {
                Self::from_number(number)
            }
        }
    };
}

registry! {
    /// Exchange types of both versions; their ranges do not meet.
    ExchangeType: u8 {
        /// IKEv1 main mode (RFC 2408 §4.5).
        IdentityProtection = 2,
        /// IKEv1 aggressive mode (RFC 2408 §4.7).
        Aggressive = 4,
        /// IKEv1 informational (RFC 2408 §4.8).
        InformationalV1 = 5,
        /// IKEv1 transaction, used by mode config and XAUTH.
        Transaction = 6,
        /// IKEv1 quick mode (RFC 2409 §5.5).
        QuickMode = 32,
        /// IKEv1 new group mode (RFC 2409 §5.6).
        NewGroup = 33,
        /// RFC 7296 §1.2.
        IkeSaInit = 34,
        /// RFC 7296 §1.2.
        IkeAuth = 35,
        /// RFC 7296 §1.3.
        CreateChildSa = 36,
        /// RFC 7296 §1.4.
        Informational = 37,
        /// RFC 5723.
        IkeSessionResume = 38,
        /// RFC 9242.
        IkeIntermediate = 43,
        /// RFC 9370.
        IkeFollowupKe = 44,
    }
}

registry! {
    /// Security protocol identifiers of proposals, notifies and deletes (RFC 7296 §3.3.1).
    ProtocolId: u8 {
        /// Not bound to a protocol, in a notify.
        None = 0,
        /// IKE (ISAKMP in IKEv1).
        Ike = 1,
        /// AH.
        Ah = 2,
        /// ESP.
        Esp = 3,
        /// IPCOMP, IKEv1 only (RFC 2407 §4.4.1).
        IpComp = 4,
    }
}

registry! {
    /// Encryption transforms, type 1 (RFC 7296 §3.3.2 and the IANA registry).
    EncryptionId: u16 {
        /// 3DES-CBC.
        TripleDes = 3,
        /// NULL, for ESP only.
        Null = 11,
        /// AES-CBC (RFC 3602).
        AesCbc = 12,
        /// AES-CTR (RFC 3686, RFC 5930).
        AesCtr = 13,
        /// AES-CCM with an 8-octet ICV (RFC 4309, RFC 5282).
        AesCcm8 = 14,
        /// AES-CCM with a 12-octet ICV.
        AesCcm12 = 15,
        /// AES-CCM with a 16-octet ICV.
        AesCcm16 = 16,
        /// AES-GCM with an 8-octet ICV (RFC 4106, RFC 5282).
        AesGcm8 = 18,
        /// AES-GCM with a 12-octet ICV.
        AesGcm12 = 19,
        /// AES-GCM with a 16-octet ICV.
        AesGcm16 = 20,
        /// AES-GMAC as NULL encryption (RFC 4543).
        NullAesGmac = 21,
        /// ChaCha20-Poly1305 (RFC 7634).
        ChaCha20Poly1305 = 28,
        /// AES-CCM-8 with an implicit IV (RFC 8750), ESP only.
        AesCcm8Iiv = 29,
        /// AES-GCM-16 with an implicit IV (RFC 8750), ESP only.
        AesGcm16Iiv = 30,
        /// ChaCha20-Poly1305 with an implicit IV (RFC 8750), ESP only.
        ChaCha20Poly1305Iiv = 31,
    }
}

registry! {
    /// Pseudorandom functions, type 2.
    PrfId: u16 {
        /// PRF_HMAC_MD5, legacy.
        HmacMd5 = 1,
        /// PRF_HMAC_SHA1.
        HmacSha1 = 2,
        /// PRF_AES128_XCBC (RFC 4434).
        Aes128Xcbc = 4,
        /// PRF_HMAC_SHA2_256 (RFC 4868).
        HmacSha2_256 = 5,
        /// PRF_HMAC_SHA2_384.
        HmacSha2_384 = 6,
        /// PRF_HMAC_SHA2_512.
        HmacSha2_512 = 7,
        /// PRF_AES128_CMAC (RFC 4615).
        Aes128Cmac = 8,
    }
}

registry! {
    /// Integrity transforms, type 3.
    IntegrityId: u16 {
        /// NONE: no integrity transform (with AEAD).
        None = 0,
        /// AUTH_HMAC_MD5_96, legacy.
        HmacMd5_96 = 1,
        /// AUTH_HMAC_SHA1_96.
        HmacSha1_96 = 2,
        /// AUTH_AES_XCBC_96 (RFC 3566).
        AesXcbc96 = 5,
        /// AUTH_AES_CMAC_96 (RFC 4494).
        AesCmac96 = 8,
        /// AUTH_AES_128_GMAC (RFC 4543), AH only.
        Aes128Gmac = 9,
        /// AUTH_AES_192_GMAC, AH only.
        Aes192Gmac = 10,
        /// AUTH_AES_256_GMAC, AH only.
        Aes256Gmac = 11,
        /// AUTH_HMAC_SHA2_256_128 (RFC 4868).
        HmacSha2_256_128 = 12,
        /// AUTH_HMAC_SHA2_384_192.
        HmacSha2_384_192 = 13,
        /// AUTH_HMAC_SHA2_512_256.
        HmacSha2_512_256 = 14,
    }
}

registry! {
    /// Key exchange methods, type 4 and 6 to 12 (RFC 9370), and the group numbers of KE payloads and IKEv1.
    KeMethod: u16 {
        /// NONE.
        None = 0,
        /// 768-bit MODP, obsolete.
        Modp768 = 1,
        /// 1024-bit MODP, legacy.
        Modp1024 = 2,
        /// 1536-bit MODP (RFC 3526), legacy.
        Modp1536 = 5,
        /// 2048-bit MODP.
        Modp2048 = 14,
        /// 3072-bit MODP.
        Modp3072 = 15,
        /// 4096-bit MODP.
        Modp4096 = 16,
        /// 6144-bit MODP.
        Modp6144 = 17,
        /// 8192-bit MODP.
        Modp8192 = 18,
        /// NIST P-256 (RFC 5903).
        Ecp256 = 19,
        /// NIST P-384.
        Ecp384 = 20,
        /// NIST P-521.
        Ecp521 = 21,
        /// Curve25519 (RFC 8031).
        Curve25519 = 31,
        /// Curve448 (RFC 8031).
        Curve448 = 32,
        /// ML-KEM-512.
        MlKem512 = 35,
        /// ML-KEM-768.
        MlKem768 = 36,
        /// ML-KEM-1024.
        MlKem1024 = 37,
    }
}

registry! {
    /// Extended sequence numbers, type 5.
    SequenceNumbers: u16 {
        /// 32-bit sequence numbers.
        Short = 0,
        /// 64-bit extended sequence numbers.
        Extended = 1,
    }
}

registry! {
    /// Identification types (RFC 7296 §3.5; those only IKEv1 has: RFC 2407 §4.6.2.1).
    IdType: u8 {
        /// Four octets.
        Ipv4Addr = 1,
        /// A domain name without terminator.
        Fqdn = 2,
        /// A mail address without terminator.
        Rfc822Addr = 3,
        /// Address and mask, IKEv1.
        Ipv4AddrSubnet = 4,
        /// Sixteen octets.
        Ipv6Addr = 5,
        /// Address and mask, IKEv1.
        Ipv6AddrSubnet = 6,
        /// Two addresses, IKEv1.
        Ipv4AddrRange = 7,
        /// Two addresses, IKEv1.
        Ipv6AddrRange = 8,
        /// A DER distinguished name.
        DerAsn1Dn = 9,
        /// A DER general name.
        DerAsn1Gn = 10,
        /// Opaque octets.
        KeyId = 11,
        /// No identity (RFC 7619).
        Null = 13,
    }
}

registry! {
    /// Certificate encodings (RFC 7296 §3.6).
    CertEncoding: u8 {
        /// PKCS #7 wrapped X.509.
        Pkcs7 = 1,
        /// A DER X.509 certificate whose key signs.
        X509Signature = 4,
        /// IKEv1: a certificate whose key encrypts.
        X509KeyExchange = 5,
        /// A DER certificate revocation list.
        Crl = 7,
        /// SHA-1 of a certificate and its URL.
        HashAndUrlCert = 12,
        /// SHA-1 of a bundle and its URL.
        HashAndUrlBundle = 13,
        /// OCSP content (RFC 4806).
        Ocsp = 14,
        /// A raw SubjectPublicKeyInfo (RFC 7670).
        RawPublicKey = 15,
    }
}

registry! {
    /// IKEv2 authentication methods (RFC 7296 §3.8).
    AuthMethod: u8 {
        /// RSASSA-PKCS1-v1_5 with SHA-1.
        RsaSignature = 1,
        /// Shared key message integrity code.
        SharedKey = 2,
        /// DSS with SHA-1.
        DssSignature = 3,
        /// ECDSA with SHA-256 on P-256 (RFC 4754).
        EcdsaSha256P256 = 9,
        /// ECDSA with SHA-384 on P-384.
        EcdsaSha384P384 = 10,
        /// ECDSA with SHA-512 on P-521.
        EcdsaSha512P521 = 11,
        /// NULL authentication (RFC 7619).
        Null = 13,
        /// Digital signature with an algorithm identifier (RFC 7427).
        DigitalSignature = 14,
    }
}

registry! {
    /// Traffic selector types (RFC 7296 §3.13.1).
    TsType: u8 {
        /// Two IPv4 addresses.
        Ipv4AddrRange = 7,
        /// Two IPv6 addresses.
        Ipv6AddrRange = 8,
    }
}

registry! {
    /// Configuration payload types (RFC 7296 §3.15).
    ConfigType: u8 {
        /// CFG_REQUEST.
        Request = 1,
        /// CFG_REPLY.
        Reply = 2,
        /// CFG_SET.
        Set = 3,
        /// CFG_ACK.
        Ack = 4,
    }
}

registry! {
    /// Configuration attribute types (RFC 7296 §3.15.1); the number has 15 bits.
    ConfigAttributeType: u16 {
        /// INTERNAL_IP4_ADDRESS.
        InternalIp4Address = 1,
        /// INTERNAL_IP4_NETMASK.
        InternalIp4Netmask = 2,
        /// INTERNAL_IP4_DNS.
        InternalIp4Dns = 3,
        /// INTERNAL_IP4_NBNS.
        InternalIp4Nbns = 4,
        /// INTERNAL_IP4_DHCP.
        InternalIp4Dhcp = 6,
        /// APPLICATION_VERSION.
        ApplicationVersion = 7,
        /// INTERNAL_IP6_ADDRESS.
        InternalIp6Address = 8,
        /// INTERNAL_IP6_DNS.
        InternalIp6Dns = 10,
        /// INTERNAL_IP6_DHCP.
        InternalIp6Dhcp = 12,
        /// INTERNAL_IP4_SUBNET.
        InternalIp4Subnet = 13,
        /// SUPPORTED_ATTRIBUTES.
        SupportedAttributes = 14,
        /// INTERNAL_IP6_SUBNET.
        InternalIp6Subnet = 15,
        /// INTERNAL_DNS_DOMAIN (RFC 8598).
        InternalDnsDomain = 25,
    }
}

registry! {
    /// Hash algorithms of SIGNATURE_HASH_ALGORITHMS (RFC 7427 §7).
    HashAlgorithm: u16 {
        /// SHA-1.
        Sha1 = 1,
        /// SHA2-256.
        Sha2_256 = 2,
        /// SHA2-384.
        Sha2_384 = 3,
        /// SHA2-512.
        Sha2_512 = 4,
        /// Identity: the algorithm hashes by itself (RFC 8420).
        Identity = 5,
    }
}

registry! {
    /// IKEv2 notify message types (RFC 7296 §3.10.1 and the IANA registry).
    NotifyType: u16 {
        /// Data: the one-octet payload type.
        UnsupportedCriticalPayload = 1,
        /// No data.
        InvalidIkeSpi = 4,
        /// Data: the version octet we speak.
        InvalidMajorVersion = 5,
        /// Fatal for the IKE SA when authenticated.
        InvalidSyntax = 7,
        /// Data: the four-octet message ID.
        InvalidMessageId = 9,
        /// Data: the SPI of the packet.
        InvalidSpi = 11,
        /// None of the proposals was acceptable.
        NoProposalChosen = 14,
        /// Data: the two-octet number of the group wanted.
        InvalidKePayload = 17,
        /// Authentication failed.
        AuthenticationFailed = 24,
        /// The responder wants one address pair only.
        SinglePairRequired = 34,
        /// No more Child SAs on this IKE SA.
        NoAdditionalSas = 35,
        /// No address can be assigned.
        InternalAddressFailure = 36,
        /// A configuration request was expected.
        FailedCpRequired = 37,
        /// No selector was acceptable.
        TsUnacceptable = 38,
        /// Selectors overlap another SA's.
        InvalidSelectors = 39,
        /// MOBIKE (RFC 4555).
        UnacceptableAddresses = 40,
        /// MOBIKE (RFC 4555).
        UnexpectedNatDetected = 41,
        /// Try again later.
        TemporaryFailure = 43,
        /// A rekey or delete named no such child.
        ChildSaNotFound = 44,
        /// RFC 9370: the state of an additional key exchange is gone.
        StateNotFound = 47,
        /// No other IKE SA with this peer exists.
        InitialContact = 16384,
        /// Window size, four octets.
        SetWindowSize = 16385,
        /// More selectors would have been acceptable.
        AdditionalTsPossible = 16386,
        /// IPCOMP offered.
        IpcompSupported = 16387,
        /// NAT detection hash of the sender's address.
        NatDetectionSourceIp = 16388,
        /// NAT detection hash of the receiver's address.
        NatDetectionDestinationIp = 16389,
        /// A cookie, 1 to 64 octets.
        Cookie = 16390,
        /// Transport mode offered or accepted.
        UseTransportMode = 16391,
        /// Hash-and-URL certificates understood.
        HttpCertLookupSupported = 16392,
        /// The child named in the SPI is being replaced.
        RekeySa = 16393,
        /// No TFC padding to us.
        EspTfcPaddingNotSupported = 16394,
        /// Fragments may travel besides first ones.
        NonFirstFragmentsAlso = 16395,
        /// MOBIKE.
        MobikeSupported = 16396,
        /// MOBIKE.
        AdditionalIp4Address = 16397,
        /// MOBIKE.
        AdditionalIp6Address = 16398,
        /// MOBIKE.
        NoAdditionalAddresses = 16399,
        /// MOBIKE.
        UpdateSaAddresses = 16400,
        /// MOBIKE.
        Cookie2 = 16401,
        /// MOBIKE.
        NoNatsAllowed = 16402,
        /// Seconds of authentication lifetime (RFC 4478).
        AuthLifetime = 16403,
        /// RFC 4739.
        MultipleAuthSupported = 16404,
        /// RFC 4739.
        AnotherAuthFollows = 16405,
        /// RFC 5685.
        RedirectSupported = 16406,
        /// RFC 5685.
        Redirect = 16407,
        /// RFC 5685.
        RedirectedFrom = 16408,
        /// RFC 5723: ticket and lifetime.
        TicketLtOpaque = 16409,
        /// RFC 5723.
        TicketRequest = 16410,
        /// RFC 5723.
        TicketAck = 16411,
        /// RFC 5723.
        TicketNack = 16412,
        /// RFC 5723.
        TicketOpaque = 16413,
        /// RFC 5998.
        EapOnlyAuthentication = 16417,
        /// RFC 6023.
        ChildlessIkev2Supported = 16418,
        /// RFC 6290.
        QuickCrashDetection = 16419,
        /// RFC 6311.
        Ikev2MessageIdSyncSupported = 16420,
        /// RFC 6311.
        IpsecReplayCounterSyncSupported = 16421,
        /// RFC 6311.
        Ikev2MessageIdSync = 16422,
        /// RFC 6311.
        IpsecReplayCounterSync = 16423,
        /// RFC 7383.
        Ikev2FragmentationSupported = 16430,
        /// RFC 7427: list of two-octet hash numbers.
        SignatureHashAlgorithms = 16431,
        /// RFC 8784.
        UsePpk = 16435,
        /// RFC 8784.
        PpkIdentity = 16436,
        /// RFC 8784.
        NoPpkAuth = 16437,
        /// RFC 9242.
        IntermediateExchangeSupported = 16438,
        /// RFC 9370.
        AdditionalKeyExchange = 16441,
    }
}

impl NotifyType {
    /// Whether this is an error type (RFC 7296 §3.10.1: below 16384); unknown ones count too.
    pub const fn is_error(self) -> bool {
        self.number() < 16384
    }
}
