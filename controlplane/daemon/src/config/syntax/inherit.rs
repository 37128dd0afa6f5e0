//! What a section takes from those that it refers to.

use super::{Section, Setting, Value};
use crate::config::diagnostic::{Diagnostics, Location};

/// References of references; real ones have one or two.
const MAX_REFERENCE_DEPTH: usize = 16;
/// References can double what they name at each level, so that a few lines stand for millions of
/// settings. A gateway of 100,000 connections stays below this.
const MAX_SETTINGS: u32 = 8_000_000;

/// The section `name` of `root` with everything that it and its subsections inherit, and without
/// what was removed.
pub(crate) fn flatten(root: &Section, name: &str, findings: &mut Diagnostics) -> Option<Section> {
    let section = root.section(name)?;
    let mut flattener = Flattener { root, findings, budget: MAX_SETTINGS, open: Vec::new() };
    let mut flat = flattener.flatten(section);
    drop_removed(&mut flat);
    Some(flat)
}

struct Flattener<'a, 'f> {
    root: &'a Section,
    findings: &'f mut Diagnostics,
    budget: u32,
    /// The sections whose references are being followed, outermost first.
    open: Vec<&'a Section>,
}

impl<'a> Flattener<'a, '_> {
    fn flatten(&mut self, section: &'a Section) -> Section {
        let mut flat = Section::new(section.name.clone(), section.at.clone());
        self.spend(section.settings.len(), &section.at);
        if self.budget == 0 {
            return flat;
        }
        flat.settings = section.settings.iter().map(duplicate).collect();
        for sub in &section.sections {
            let sub = self.flatten(sub);
            flat.push(sub);
        }
        for (reference, at) in &section.references {
            let mut found = Some(self.root);
            for part in reference.split('.') {
                found = found.and_then(|s| s.section(part));
            }
            let error = match found {
                None => format!("there is no section '{reference}' to inherit from"),
                Some(s) if self.open.iter().any(|open| core::ptr::eq(*open, s)) => {
                    format!("'{reference}' inherits from itself")
                }
                Some(_) if self.open.len() >= MAX_REFERENCE_DEPTH => {
                    format!("references more than {MAX_REFERENCE_DEPTH} deep")
                }
                Some(inherited) => {
                    self.open.push(inherited);
                    let inherited = self.flatten(inherited);
                    self.open.pop();
                    inherit(&mut flat, inherited);
                    continue;
                }
            };
            self.findings.error(at, &section.name, error);
        }
        flat
    }

    fn spend(&mut self, settings: usize, at: &Location) {
        let cost = u32::try_from(settings).unwrap_or(u32::MAX).saturating_add(1);
        if self.budget > 0 && self.budget <= cost {
            let message = format!("references make this more than {MAX_SETTINGS} settings");
            self.findings.error(at, "", message);
        }
        self.budget = self.budget.saturating_sub(cost);
    }
}

fn duplicate(setting: &Setting) -> Setting {
    Setting {
        key: setting.key.clone(),
        at: setting.at.clone(),
        value: setting.value.as_ref().map(Value::duplicate),
    }
}

/// What `section` does not say itself it takes from `inherited`, behind its own.
fn inherit(section: &mut Section, inherited: Section) {
    for setting in inherited.settings {
        if !section.settings.iter().any(|s| s.key == setting.key) {
            section.settings.push(setting);
        }
    }
    for sub in inherited.sections {
        match section.index.get(&sub.name) {
            Some(index) => inherit(&mut section.sections[*index], sub),
            None => section.push(sub),
        }
    }
}

fn drop_removed(section: &mut Section) {
    section.settings.retain(|s| s.value.is_some());
    section.sections.iter_mut().for_each(drop_removed);
}
