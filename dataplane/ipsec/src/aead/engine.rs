//! Which AES-GCM implementations this processor can run.

/// An AES-GCM implementation that this processor can run.
///
/// A value exists only where the processor was asked and has the instructions, which is what makes it sound
/// to run a kernel on the word of an `Engine`: there is no public constructor without detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Engine(Kind);

/// The implementations by name; only [`Engine`] proves that one can run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same, of a key of which one line alone is at hand.
    #[cfg(target_arch = "x86_64")]
    Avx512Start,
    #[cfg(target_arch = "x86_64")]
    Vaes256,
    /// As `Avx512Start`.
    #[cfg(target_arch = "x86_64")]
    Vaes256Start,
    #[cfg(target_arch = "x86_64")]
    Aesni,
    Portable,
}

impl Kind {
    /// Fastest first.
    const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Vaes256,
        #[cfg(target_arch = "x86_64")]
        Self::Aesni,
        Self::Portable,
    ];

    fn detected(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Start => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("vaes")
                    && is_x86_feature_detected!("vpclmulqdq")
                    && is_x86_feature_detected!("bmi2")
                    && expansion_detected()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Vaes256 | Self::Vaes256Start => {
                is_x86_feature_detected!("vaes")
                    && is_x86_feature_detected!("vpclmulqdq")
                    && Self::Aesni.detected()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Aesni => is_x86_feature_detected!("avx2") && expansion_detected(),
            Self::Portable => true,
        }
    }
}

impl Engine {
    /// The `aes-gcm` crate, which runs anywhere.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// The engines this processor can run, fastest first; never empty.
    pub fn available() -> impl Iterator<Item = Self> {
        Kind::ALL.iter().copied().filter(|kind| kind.detected()).map(Self)
    }

    /// The fastest engine this processor can run.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::PORTABLE)
    }

    /// The engine of that [`name`](Self::name), where this processor can run it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|engine| engine.name() == name)
    }

    /// The name by which configuration and the known-answer runner force an engine.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Start => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Vaes256 | Kind::Vaes256Start => "vaes256",
            #[cfg(target_arch = "x86_64")]
            Kind::Aesni => "aesni",
            Kind::Portable => "portable",
        }
    }

    pub(super) fn kind(self) -> Kind {
        self.0
    }
}

/// Whether the processor has what key expansion for the vector engines takes.
#[cfg(target_arch = "x86_64")]
fn expansion_detected() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
}
