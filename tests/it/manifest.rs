use std::path::Path;

use renet::manifest::load;

#[test]
fn the_example_is_valid() {
    let folder = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hello"));
    assert_eq!(
        folder.render(false, 80),
        "hello: 4 documents in 1 file, no errors\n"
    );
}
