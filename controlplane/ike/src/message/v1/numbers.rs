//! IKEv1 registries (RFC 2407 §4.4 and §4.6, RFC 2408 §3, RFC 2409 appendix A), unassigned values kept.

registry! {
    /// Payload types (RFC 2408 §3.1, RFC 3947 §9).
    PayloadType: u8 {
        /// SA.
        Sa = 1,
        /// KE.
        KeyExchange = 4,
        /// ID.
        Identification = 5,
        /// CERT.
        Certificate = 6,
        /// CR.
        CertRequest = 7,
        /// HASH.
        Hash = 8,
        /// SIG.
        Signature = 9,
        /// NONCE.
        Nonce = 10,
        /// N.
        Notify = 11,
        /// D.
        Delete = 12,
        /// VID.
        VendorId = 13,
        /// Mode config and XAUTH attributes.
        Attributes = 14,
        /// NAT-D (RFC 3947).
        NatDetection = 20,
        /// NAT-OA (RFC 3947).
        NatOriginalAddress = 21,
        /// A GSS-API token (draft-ietf-ipsec-isakmp-gss-auth-07 §3.3.3).
        GssToken = 129,
        /// NAT-D of the drafts before RFC 3947.
        NatDetectionDraft = 130,
        /// NAT-OA of the drafts before RFC 3947.
        NatOriginalAddressDraft = 131,
        /// A fragment, as Cisco and Microsoft send them.
        Fragment = 132,
    }
}

registry! {
    /// Phase 1 attribute types (RFC 2409 appendix A); the number has 15 bits.
    AttributeType: u16 {
        /// Encryption algorithm.
        EncryptionAlgorithm = 1,
        /// Hash algorithm.
        HashAlgorithm = 2,
        /// Authentication method.
        AuthenticationMethod = 3,
        /// Group description.
        GroupDescription = 4,
        /// Group type.
        GroupType = 5,
        /// Life type: 1 seconds, 2 kilobytes.
        LifeType = 11,
        /// Life duration, of the life type before it.
        LifeDuration = 12,
        /// PRF.
        Prf = 13,
        /// Key length in bits.
        KeyLength = 14,
        /// The name of a GSS-API endpoint (draft-ietf-ipsec-isakmp-gss-auth-07 §3.3.2).
        GssIdentityName = 16384,
    }
}

registry! {
    /// Phase 2 attribute types (RFC 2407 §4.5); the number has 15 bits.
    IpsecAttributeType: u16 {
        /// SA life type: 1 seconds, 2 kilobytes.
        LifeType = 1,
        /// SA life duration, of the life type before it.
        LifeDuration = 2,
        /// Group description, for perfect forward secrecy.
        GroupDescription = 3,
        /// 1 tunnel, 2 transport, 3 and 4 the same in UDP (RFC 3947 §5.1).
        EncapsulationMode = 4,
        /// Authentication algorithm.
        AuthenticationAlgorithm = 5,
        /// Key length in bits.
        KeyLength = 6,
        /// Key rounds.
        KeyRounds = 7,
        /// 64-bit sequence numbers (RFC 4304).
        ExtendedSequenceNumber = 11,
    }
}

registry! {
    /// Notify message types (RFC 2408 §3.14.1, RFC 2407 §4.6.3, RFC 3706).
    NotifyType: u16 {
        /// INVALID-PAYLOAD-TYPE.
        InvalidPayloadType = 1,
        /// DOI-NOT-SUPPORTED.
        DoiNotSupported = 2,
        /// SITUATION-NOT-SUPPORTED.
        SituationNotSupported = 3,
        /// INVALID-COOKIE.
        InvalidCookie = 4,
        /// INVALID-MAJOR-VERSION.
        InvalidMajorVersion = 5,
        /// INVALID-MINOR-VERSION.
        InvalidMinorVersion = 6,
        /// INVALID-EXCHANGE-TYPE.
        InvalidExchangeType = 7,
        /// INVALID-FLAGS.
        InvalidFlags = 8,
        /// INVALID-MESSAGE-ID.
        InvalidMessageId = 9,
        /// INVALID-PROTOCOL-ID.
        InvalidProtocolId = 10,
        /// INVALID-SPI.
        InvalidSpi = 11,
        /// INVALID-TRANSFORM-ID.
        InvalidTransformId = 12,
        /// ATTRIBUTES-NOT-SUPPORTED.
        AttributesNotSupported = 13,
        /// NO-PROPOSAL-CHOSEN.
        NoProposalChosen = 14,
        /// BAD-PROPOSAL-SYNTAX.
        BadProposalSyntax = 15,
        /// PAYLOAD-MALFORMED.
        PayloadMalformed = 16,
        /// INVALID-KEY-INFORMATION.
        InvalidKeyInformation = 17,
        /// INVALID-ID-INFORMATION.
        InvalidIdInformation = 18,
        /// INVALID-CERT-ENCODING.
        InvalidCertEncoding = 19,
        /// INVALID-CERTIFICATE.
        InvalidCertificate = 20,
        /// CERT-TYPE-UNSUPPORTED.
        CertTypeUnsupported = 21,
        /// INVALID-CERT-AUTHORITY.
        InvalidCertAuthority = 22,
        /// INVALID-HASH-INFORMATION.
        InvalidHashInformation = 23,
        /// AUTHENTICATION-FAILED.
        AuthenticationFailed = 24,
        /// INVALID-SIGNATURE.
        InvalidSignature = 25,
        /// NOTIFY-SA-LIFETIME.
        NotifySaLifetime = 27,
        /// UNEQUAL-PAYLOAD-LENGTHS.
        UnequalPayloadLengths = 30,
        /// CONNECTED.
        Connected = 16384,
        /// RESPONDER-LIFETIME.
        ResponderLifetime = 24576,
        /// REPLAY-STATUS.
        ReplayStatus = 24577,
        /// INITIAL-CONTACT.
        InitialContact = 24578,
        /// R-U-THERE (RFC 3706).
        RUThere = 36136,
        /// R-U-THERE-ACK (RFC 3706).
        RUThereAck = 36137,
    }
}

/// The sequence number of a dead peer detection notify (RFC 3706 §5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DpdNotify {
    /// Counts up by one with each R-U-THERE.
    pub sequence: u32,
}

impl DpdNotify {
    /// From a notify's data, which must be exactly four octets.
    pub fn from_data(data: &[u8]) -> Option<Self> {
        let octets = <[u8; 4]>::try_from(data).ok()?;
        Some(Self { sequence: u32::from_be_bytes(octets) })
    }
}
