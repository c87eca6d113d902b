//! The main job in a container.

use super::nspawn::Container;
use crate::guest::story;

#[test]
fn a_folder_of_manifests_becomes_a_service() {
    story::a_folder_becomes_a_service(&Container::boot());
}
