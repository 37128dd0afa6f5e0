//! Headers a gateway forwards or adds, as checked views and emitters.
