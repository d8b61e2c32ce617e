//! What people are called who have no name of their own: a first name by their number, a family name by their house.

use everworld_components::{Home, Name};
use everworld_engine::{Uid, random::mix};

const FIRST: [&str; 64] = [
    "Ada", "Alma", "Anselm", "Arno", "Asta", "Bela", "Berit", "Bodo", "Britt", "Carl", "Clara", "Conrad",
    "Dora", "Edda", "Egon", "Elin", "Emil", "Enno", "Erna", "Ester", "Falk", "Finn", "Frida", "Gerd", "Gesa",
    "Greta", "Gunnar", "Hanna", "Harm", "Hedda", "Heike", "Helge", "Ida", "Imke", "Inga", "Ivo", "Jana",
    "Jonas", "Jutta", "Karl", "Kaja", "Knut", "Lars", "Lena", "Leto", "Lina", "Maren", "Mats", "Merle",
    "Mila", "Nele", "Nils", "Olaf", "Ottilie", "Paul", "Pia", "Rasmus", "Rieke", "Rolf", "Selma", "Sven",
    "Thea", "Uwe", "Wenke",
];
const FAMILY: [&str; 48] = [
    "Aldin", "Baum", "Birk", "Brandt", "Brook", "Dahl", "Dorr", "Eck", "Falke", "Feld", "Fisk", "Gard",
    "Gruber", "Hain", "Hask", "Heller", "Holm", "Horn", "Jansen", "Kamp", "Kester", "Klee", "Korn", "Krug",
    "Lind", "Lohe", "Marsch", "Moor", "Moss", "Nagel", "Noll", "Oster", "Pohl", "Rabe", "Rennick", "Ried",
    "Sand", "Schild", "Stein", "Stern", "Thorn", "Torf", "Ulm", "Vell", "Voss", "Weide", "Winter", "Zorn",
];

/// What somebody is called.
pub fn name_of(uid: Uid, home: Option<&Home>, name: Option<&Name>) -> String {
    if let Some(Name { name }) = name {
        return name.clone();
    }
    let place = home.map_or(0, |home| (u64::from(home.x.to_bits()) << 32) | u64::from(home.y.to_bits()));
    let pick = |names: &[&'static str], by: u64| names[(mix(by) % names.len() as u64) as usize];
    format!("{} {}", pick(&FIRST, uid.get()), pick(&FAMILY, place))
}
