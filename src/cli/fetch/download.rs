//! A file from a URL.

use std::path::Path;

use anyhow::Context;

use super::arrival::Arrival;
use super::progress::Progress;

/// Downloads `url` into a temporary file of `folder`.
pub(super) fn fetch(url: &str, folder: &Path) -> anyhow::Result<Arrival> {
    let response = ureq::get(url).call().with_context(|| format!("can't download {url}"))?;
    let mut arrival = Arrival::new(folder)?;
    let body = response.into_body();
    let progress = Progress::new(body.content_length());
    arrival
        .fill(progress.around(body.into_reader()))
        .with_context(|| format!("can't download {url}"))?;
    Ok(arrival)
}
