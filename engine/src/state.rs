//! Resources that are state, and the one that every world has: its time.

use crate::ids::Tick;
use bevy_ecs::{
    component::{Component, Mutable, RequiredComponentsRegistrator},
    resource::{IsResource, Resource},
};
use serde::{Serialize, de::DeserializeOwned};

/// A singleton that is part of the state: hashed, stored, restored. Declare it with [`resource!`](crate::resource!).
///
/// Its serde form must not depend on anything but its value: maps are ordered ones.
pub trait StateResource: Resource + Component<Mutability = Mutable> + Serialize + DeserializeOwned {
    /// Its name on disk and in the API; unique in a world.
    const NAME: &'static str;
    /// Raised when the meaning or the shape of the stored value changes.
    const VERSION: u16;
}

/// Declares a resource that is part of the state.
#[macro_export]
macro_rules! resource {
    ($(#[$($meta:tt)*])* $vis:vis struct $Name:ident($name:literal, version $version:literal) {
        $($(#[$($field_meta:tt)*])* $field_vis:vis $field:ident : $ty:ty),* $(,)?
    }) => {
        $(#[$($meta)*])*
        #[derive($crate::__private::serde::Serialize, $crate::__private::serde::Deserialize)]
        #[serde(crate = "everworld_engine::__private::serde")]
        $vis struct $Name {
            $($(#[$($field_meta)*])* $field_vis $field: $ty,)*
        }

        impl $crate::__private::bevy_ecs::component::Component for $Name {
            const STORAGE_TYPE: $crate::__private::bevy_ecs::component::StorageType =
                $crate::__private::bevy_ecs::component::StorageType::SparseSet;
            type Mutability = $crate::__private::bevy_ecs::component::Mutable;

            fn register_required_components(
                _own: $crate::__private::bevy_ecs::component::ComponentId,
                required: &mut $crate::__private::bevy_ecs::component::RequiredComponentsRegistrator<'_, '_>,
            ) {
                $crate::__private::register_resource_marker::<Self>(required);
            }
        }

        impl $crate::__private::bevy_ecs::resource::Resource for $Name {}

        impl $crate::StateResource for $Name {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;
        }
    };
}

/// What bevy's `#[derive(Resource)]` writes for a resource's entity.
#[doc(hidden)]
pub fn register_resource_marker<R: Component>(required: &mut RequiredComponentsRegistrator<'_, '_>) {
    let registrator = required.components_registrator();
    let id = match registrator.component_id::<R>() {
        Some(id) => id,
        None => registrator.register_component::<R>(),
    };
    required.register_required::<IsResource>(move || IsResource::new(id));
}

resource! {
    /// What time it is in the world, and what its chance is drawn from.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct TickTime("time", version 1) {
        /// The tick that is being computed; between ticks, the last finished one.
        pub tick: Tick,
        /// The seed of all chance in this world.
        pub seed: u64,
        /// In-world seconds that pass in one tick.
        pub dt_secs: f64,
    }
}
