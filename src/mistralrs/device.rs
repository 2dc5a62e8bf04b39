//! From a device's name to the device, if this binary was built for it.

use candle_core::Device as Candle;

use super::load::LoadError;
use crate::config::Device;

/// Opens the device.
pub(super) fn open(device: Device) -> Result<Candle, LoadError> {
    let (feature, is_built) = match device {
        Device::Cpu => return Ok(Candle::Cpu),
        Device::Cuda(_) => ("cuda", cfg!(feature = "cuda")),
        Device::Metal => ("metal", cfg!(feature = "metal")),
    };
    if !is_built {
        return Err(LoadError::DeviceNotBuilt { device, feature });
    }
    let opened = match device {
        Device::Cuda(number) => Candle::new_cuda(number),
        _ => Candle::new_metal(0),
    };
    opened.map_err(|error| LoadError::Device { device, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_built_in_is_refused_with_its_feature() {
        assert!(open(Device::Cpu).is_ok());
        if !cfg!(feature = "cuda") {
            let error = open(Device::Cuda(1)).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("cuda:1") && error.contains("--features cuda"), "{error}");
        }
    }
}
