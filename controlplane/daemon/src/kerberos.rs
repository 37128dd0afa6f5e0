//! Kerberos for the engine: GSS-API by the system's library, in builds with the feature `kerberos`.
//!
//! Keys and tickets are where the library finds them: KRB5_KTNAME (or /etc/krb5.keytab) has our key as acceptor,
//! KRB5_CLIENT_KTNAME the one tickets are fetched with, KRB5CCNAME says where they are kept (docs/operations.md).

use ike::gss::Mechanism;
use std::sync::Arc;

/// What the engine authenticates with by `auth = kerberos`; `None` in a build without it.
pub(crate) fn mechanism() -> Option<Arc<dyn Mechanism>> {
    #[cfg(feature = "kerberos")]
    return Some(Arc::new(library::Kerberos));
    #[cfg(not(feature = "kerberos"))]
    return None;
}

#[cfg(feature = "kerberos")]
mod library {
    use core::fmt;
    use ike::gss::{Context, Mechanism, Refused, Step};
    use libgssapi::context::{ClientCtx, CtxFlags, SecurityContext, ServerCtx};
    use libgssapi::credential::{Cred, CredUsage};
    use libgssapi::error::Error;
    use libgssapi::name::Name;
    use libgssapi::oid::{GSS_MECH_KRB5, GSS_NT_KRB5_PRINCIPAL, OidSet};
    use zeroize::Zeroizing;

    /// What a context must have at its end (draft-ietf-ipsec-isakmp-gss-auth-07 §3).
    const NEEDED: CtxFlags = CtxFlags::GSS_C_MUTUAL_FLAG
        .union(CtxFlags::GSS_C_INTEG_FLAG)
        .union(CtxFlags::GSS_C_CONF_FLAG);

    /// The library's Kerberos.
    #[derive(Debug)]
    pub(super) struct Kerberos;

    fn refused(error: Error) -> Refused {
        // The library's words, on one line of the log.
        Refused(error.to_string().replace(char::is_control, " ").into())
    }

    fn name(principal: &str) -> Result<Name, Refused> {
        Name::new(principal.as_bytes(), Some(GSS_NT_KRB5_PRINCIPAL)).map_err(refused)
    }

    fn credentials(own: &str, usage: CredUsage) -> Result<Cred, Refused> {
        let mechanisms = OidSet::singleton(GSS_MECH_KRB5).map_err(refused)?;
        Cred::acquire(Some(&name(own)?), None, usage, Some(&mechanisms)).map_err(refused)
    }

    impl Mechanism for Kerberos {
        fn initiate(&self, own: &str, target: &str) -> Result<Box<dyn Context>, Refused> {
            let own = credentials(own, CredUsage::Initiate)?;
            let target = name(target)?;
            let context = ClientCtx::new(Some(own), target, NEEDED, Some(GSS_MECH_KRB5));
            Ok(Box::new(Initiator(context)))
        }

        fn accept(&self, own: &str) -> Result<Box<dyn Context>, Refused> {
            let own = credentials(own, CredUsage::Accept)?;
            Ok(Box::new(Acceptor(ServerCtx::new(Some(own)))))
        }
    }

    struct Initiator(ClientCtx);
    struct Acceptor(ServerCtx);

    /// What both sides do alike.
    fn checked(context: &impl SecurityContext, token: Option<Vec<u8>>) -> Result<Step, Refused> {
        let complete = context.is_complete();
        if complete && !context.flags().map_err(refused)?.contains(NEEDED) {
            return Err(Refused("the context is not mutual, or does not protect".into()));
        }
        Ok(Step { token: token.unwrap_or_default(), complete })
    }

    fn text(name: Result<Name, Error>) -> Result<String, Refused> {
        let text = name.map_err(refused)?.display_name().map_err(refused)?;
        String::from_utf8(text.to_vec()).map_err(|_| Refused("a name that is no text".into()))
    }

    fn wrapped(context: &mut impl SecurityContext, data: &[u8]) -> Result<Vec<u8>, Refused> {
        context.wrap(true, data).map(|buffer| buffer.to_vec()).map_err(refused)
    }

    fn unwrapped(
        context: &mut impl SecurityContext,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Refused> {
        context.unwrap(wrapped).map(|buffer| Zeroizing::new(buffer.to_vec())).map_err(refused)
    }

    impl Context for Initiator {
        fn step(&mut self, token: Option<&[u8]>) -> Result<Step, Refused> {
            let token = self.0.step(token, None).map_err(refused)?;
            checked(&self.0, token.map(|token| token.to_vec()))
        }

        fn peer(&self) -> Result<String, Refused> {
            text(self.0.target_name())
        }

        fn wrap(&mut self, data: &[u8]) -> Result<Vec<u8>, Refused> {
            wrapped(&mut self.0, data)
        }

        fn unwrap(&mut self, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
            unwrapped(&mut self.0, data)
        }
    }

    impl Context for Acceptor {
        fn step(&mut self, token: Option<&[u8]>) -> Result<Step, Refused> {
            let token = token.unwrap_or_default();
            let token = self.0.step(token, None).map_err(refused)?;
            checked(&self.0, token.map(|token| token.to_vec()))
        }

        fn peer(&self) -> Result<String, Refused> {
            text(self.0.source_name())
        }

        fn wrap(&mut self, data: &[u8]) -> Result<Vec<u8>, Refused> {
            wrapped(&mut self.0, data)
        }

        fn unwrap(&mut self, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
            unwrapped(&mut self.0, data)
        }
    }

    impl fmt::Debug for Initiator {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Initiator")
        }
    }

    impl fmt::Debug for Acceptor {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Acceptor")
        }
    }
}
