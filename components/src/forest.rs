//! Trees, and how they burn.

use everworld_engine::{component, labels, resource};

labels! {
    /// How a tree is.
    pub enum Fire: u32 {
        Green = "green",
        Burning = "burning",
        Burnt = "burnt",
    }
}

component! {
    /// A tree, or bare ground that burns in the first column.
    pub struct Tree("tree", version 1) {
        /// How it is.
        fire: Fire,
        /// 1 for a tree, 0 for bare ground.
        is_tree: u32 where 0..=1,
    }
}

resource! {
    /// The lattice that a forest stands on.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Forest("forest", version 1) {
        /// Sites along each side.
        pub side: u32,
    }
}
