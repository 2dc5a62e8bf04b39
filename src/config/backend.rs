//! The backend that runs the model, and its device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Backend that runs the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The native engine where it knows the model, else mistral.rs.
    Auto,
    /// The native engine.
    Native,
    /// mistral.rs, if it is built in.
    MistralRs,
}

/// Device that the second backend computes on; the native engine computes on the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// The processor's cores.
    Cpu,
    /// A graphics card of Nvidia's, by its number.
    Cuda(usize),
    /// Apple's graphics processor.
    Metal,
}

/// A device that can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no device; use cpu, cuda, cuda:N (the card's number, counted from 0) or metal")]
pub struct InvalidDevice(String);

// === impl Device ===

impl FromStr for Device {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| InvalidDevice(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flag, Layers};

    #[test]
    fn devices_are_read_and_written() {
        for (text, device, written) in [
            ("cpu", Some(Device::Cpu), "cpu"),
            ("cuda", Some(Device::Cuda(0)), "cuda:0"),
            ("cuda:3", Some(Device::Cuda(3)), "cuda:3"),
            ("metal", Some(Device::Metal), "metal"),
            ("cuda:", None, ""),
            ("cuda:-1", None, ""),
            ("gpu", None, ""),
            ("", None, ""),
        ] {
            let read = text.parse::<Device>();
            assert_eq!(read.as_ref().ok(), device.as_ref(), "{text:?}");
            match read {
                Ok(device) => assert_eq!(device.to_string(), written),
                Err(error) => assert!(error.to_string().contains("cuda:N"), "{error}"),
            }
        }
    }

    #[test]
    fn settings_name_what_they_refuse() {
        for (key, value, says) in [
            ("engine.device", "tpu", "cuda:N"),
            ("engine.backend", "vllm", "mistralrs"),
            ("engine.backend", "", "native"),
        ] {
            let flags = vec![Flag::new(key, value, "the test")];
            let error = Layers { flags, ..Layers::default() }.load().unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(says), "{key} = {value}: {error}");
        }
    }
}
