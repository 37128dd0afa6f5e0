//! A small eBPF assembler with labels: enough for the steering program.
//!
//! Instruction encoding: RFC 9669 §3. Operations are on 64-bit registers.

use std::collections::HashMap;

/// A register: `R0` returns, `R1` to `R5` are arguments and lost at calls, `R6` to `R9` survive them, `Fp` is
/// the end of the stack.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
#[expect(dead_code, reason = "a machine's registers are all of them")]
pub(crate) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    Fp,
}

/// The size of a load or store.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Width {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
}

/// An unsigned comparison.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Cond {
    Eq = 0x10,
    Gt = 0x20,
    Ge = 0x30,
    Ne = 0x50,
    Lt = 0xa0,
}

/// Kernel functions a program may call (`enum bpf_func_id`).
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(crate) enum Helper {
    MapLookup = 1,
    RedirectMap = 51,
}

/// A program being written. Each method appends one instruction (or defines a label).
#[derive(Debug, Default)]
pub(crate) struct Asm {
    code: Vec<u64>,
    jumps: Vec<(usize, String)>,
    labels: HashMap<String, usize>,
}

/// Why a program cannot be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AsmError {
    /// A label stands in two places.
    #[error("label {0} defined twice")]
    LabelTwice(String),
    /// A jump has no target.
    #[error("no label {0}")]
    NoLabel(String),
    /// A target is out of a jump's reach.
    #[error("label {0} is too far")]
    TooFar(String),
}

impl Asm {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn emit(&mut self, op: u8, dst: Reg, src: Reg, offset: i16, immediate: i32) -> &mut Self {
        self.code.push(
            u64::from(op)
                | (dst as u64) << 8
                | (src as u64) << 12
                | u64::from(offset as u16) << 16
                | u64::from(immediate as u32) << 32,
        );
        self
    }

    /// Names the next instruction; a second definition of the name is found by [`finish`](Self::finish).
    pub(crate) fn label(&mut self, name: &str) -> &mut Self {
        if self.labels.insert(name.into(), self.code.len()).is_some() {
            // An impossible target, so that `finish` names it.
            self.labels.insert(name.into(), usize::MAX);
        }
        self
    }

    pub(crate) fn mov(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.emit(0xbf, dst, src, 0, 0)
    }

    pub(crate) fn mov_imm(&mut self, dst: Reg, value: i32) -> &mut Self {
        self.emit(0xb7, dst, Reg::R0, 0, value)
    }

    pub(crate) fn add(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.emit(0x0f, dst, src, 0, 0)
    }

    pub(crate) fn add_imm(&mut self, dst: Reg, value: i32) -> &mut Self {
        self.emit(0x07, dst, Reg::R0, 0, value)
    }

    pub(crate) fn and(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.emit(0x5f, dst, src, 0, 0)
    }

    pub(crate) fn and_imm(&mut self, dst: Reg, value: i32) -> &mut Self {
        self.emit(0x57, dst, Reg::R0, 0, value)
    }

    pub(crate) fn shl_imm(&mut self, dst: Reg, bits: i32) -> &mut Self {
        self.emit(0x67, dst, Reg::R0, 0, bits)
    }

    pub(crate) fn shr_imm(&mut self, dst: Reg, bits: i32) -> &mut Self {
        self.emit(0x77, dst, Reg::R0, 0, bits)
    }

    /// Turns the low 16 bits from network order into the machine's and clears the rest.
    pub(crate) fn swap_be16(&mut self, dst: Reg) -> &mut Self {
        self.emit(0xdc, dst, Reg::R0, 0, 16)
    }

    /// `dst = *(src + offset)`
    pub(crate) fn load(&mut self, width: Width, dst: Reg, src: Reg, offset: i16) -> &mut Self {
        self.emit(0x61 | width as u8, dst, src, offset, 0)
    }

    /// `*(dst + offset) = src`
    pub(crate) fn store(&mut self, width: Width, dst: Reg, offset: i16, src: Reg) -> &mut Self {
        self.emit(0x63 | width as u8, dst, src, offset, 0)
    }

    /// `*(dst + offset) = value`
    pub(crate) fn store_imm(
        &mut self,
        width: Width,
        dst: Reg,
        offset: i16,
        value: i32,
    ) -> &mut Self {
        self.emit(0x62 | width as u8, dst, Reg::R0, offset, value)
    }

    /// `lock *(u64 *)(dst + offset) += src`
    pub(crate) fn atomic_add(&mut self, dst: Reg, offset: i16, src: Reg) -> &mut Self {
        self.emit(0xdb, dst, src, offset, 0)
    }

    /// Loads the address of the map behind a descriptor.
    pub(crate) fn map(&mut self, dst: Reg, fd: i32) -> &mut Self {
        // BPF_PSEUDO_MAP_FD: the source register field is 1; the instruction takes two places.
        self.emit(0x18, dst, Reg::R1, 0, fd);
        self.code.push(0);
        self
    }

    pub(crate) fn call(&mut self, helper: Helper) -> &mut Self {
        self.emit(0x85, Reg::R0, Reg::R0, 0, helper as i32)
    }

    pub(crate) fn exit(&mut self) -> &mut Self {
        self.emit(0x95, Reg::R0, Reg::R0, 0, 0)
    }

    pub(crate) fn jump(&mut self, label: &str) -> &mut Self {
        self.jumps.push((self.code.len(), label.into()));
        self.emit(0x05, Reg::R0, Reg::R0, 0, 0)
    }

    /// Jumps if `reg` compares so to a value.
    pub(crate) fn jump_if(&mut self, reg: Reg, cond: Cond, value: i32, label: &str) -> &mut Self {
        self.jumps.push((self.code.len(), label.into()));
        self.emit(0x05 | cond as u8, reg, Reg::R0, 0, value)
    }

    /// Jumps if `reg` compares so to another register.
    pub(crate) fn jump_if_reg(
        &mut self,
        reg: Reg,
        cond: Cond,
        other: Reg,
        label: &str,
    ) -> &mut Self {
        self.jumps.push((self.code.len(), label.into()));
        self.emit(0x0d | cond as u8, reg, other, 0, 0)
    }

    /// Resolves the jumps.
    pub(crate) fn finish(mut self) -> Result<Vec<u64>, AsmError> {
        if let Some((name, _)) = self.labels.iter().find(|(_, at)| **at == usize::MAX) {
            return Err(AsmError::LabelTwice(name.clone()));
        }
        for (at, label) in self.jumps {
            let Some(target) = self.labels.get(&label) else {
                return Err(AsmError::NoLabel(label));
            };
            // Relative to the instruction after the jump.
            let Ok(offset) = i16::try_from(*target as i64 - at as i64 - 1) else {
                return Err(AsmError::TooFar(label));
            };
            self.code[at] |= u64::from(offset as u16) << 16;
        }
        Ok(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_rfc_9669_has_them() {
        let mut a = Asm::new();
        a.mov_imm(Reg::R0, 2)
            .load(Width::Half, Reg::R3, Reg::R7, 12)
            .jump_if(Reg::R3, Cond::Eq, 8, "out")
            .store_imm(Width::Word, Reg::Fp, -8, -1)
            .label("out")
            .exit();
        assert_eq!(
            a.finish().unwrap(),
            [
                0x0000_0002_0000_00b7,
                0x0000_0000_000c_7369,
                0x0000_0008_0001_0315,
                0xffff_ffff_fff8_0a62,
                0x0000_0000_0000_0095,
            ]
        );
    }

    #[test]
    fn a_jump_backwards_or_to_nowhere() {
        let mut a = Asm::new();
        a.label("again").jump("again");
        assert_eq!(a.finish().unwrap(), [0x0000_0000_ffff_0005]);
        let mut a = Asm::new();
        a.jump("nowhere");
        assert_eq!(a.finish(), Err(AsmError::NoLabel("nowhere".into())));
        let mut a = Asm::new();
        a.label("x").exit().label("x").exit();
        assert_eq!(a.finish(), Err(AsmError::LabelTwice("x".into())));
    }
}
