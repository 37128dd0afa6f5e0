//! IKEv1 and IKEv2 as a sans-IO engine.
