//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::BoxError;

/// What to do.
pub struct Arguments {
    /// The front door.
    pub target: SocketAddr,
    /// Requests per second.
    pub rps: u32,
    /// For how long.
    pub seconds: u32,
    /// Different end users.
    pub users: u64,
    /// Where the result goes, as JSON.
    pub report: PathBuf,
}

impl Arguments {
    /// `--target ADDRESS --rps N --seconds N --users N --report FILE`
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let (mut target, mut report) = (None, None);
        let (mut rps, mut seconds, mut users) = (100, 60, 20);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--target" => target = Some(value.parse()?),
                "--report" => report = Some(value.into()),
                "--rps" => rps = value.parse()?,
                "--seconds" => seconds = value.parse()?,
                "--users" => users = value.parse()?,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        if rps == 0 || users == 0 {
            return Err("--rps and --users must be at least 1".into());
        }
        let target = target.ok_or("--target is missing")?;
        Ok(Self { target, rps, seconds, users, report: report.ok_or("--report is missing")? })
    }

    /// How many requests that makes.
    pub fn requests(&self) -> u64 {
        u64::from(self.rps) * u64::from(self.seconds)
    }
}
