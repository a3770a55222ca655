//! `http` (not written yet).

use super::{Device, Error, Intake};
use crate::config::section::Section;

pub const RUNS_ONCE: bool = false;

#[derive(Clone, Debug, PartialEq)]
pub struct Source {}

impl Source {
    pub fn read(_shared: &mut Section<'_>, _devices: Vec<Device<'_>>) -> Vec<Self> {
        Vec::new()
    }

    pub fn name(&self) -> String {
        "http".to_owned()
    }

    pub async fn run(&self, _intake: &Intake) -> Result<(), Error> {
        Ok(())
    }
}
