use std::fmt;

use serde::{Deserialize, Serialize};

use super::Size;

/// What something may take of the machine at most: a container, or all of a
/// repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Of memory, a multiple of 1 MiB where it limits a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Of the processors, in hundredths of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl ResourceLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// `memory 2GiB, cpus 1.5, pids 4096`, or `none`.
impl fmt::Display for ResourceLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [
            self.memory.map(|size| format!("memory {size}")),
            self.cpus
                .map(|cpus| format!("cpus {}", f64::from(cpus) / 100.0)),
            self.pids.map(|pids| format!("pids {pids}")),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        match said.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&said.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shown_as_a_manifest_says_them() {
        assert_eq!(ResourceLimits::default().to_string(), "none");
        let limits = ResourceLimits {
            memory: Some(Size::mib(512)),
            cpus: Some(150),
            pids: Some(4096),
        };
        assert_eq!(limits.to_string(), "memory 512MiB, cpus 1.5, pids 4096");
    }
}
