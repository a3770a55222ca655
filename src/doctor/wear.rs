//! What an eMMC tells of its wear. SD cards tell nothing.

use super::Check;
use super::facts::Facts;

/// JEDEC JESD84-B51: `life_time` has two estimates, each in tenths of the life that is used, and `pre_eol_info`
/// says how many of the reserved blocks are left.
pub fn flash(facts: &Facts) -> Check {
    const NAME: &str = "flash_wear";
    let root = &facts.root;
    let cards = root.names("/sys/block").into_iter().filter(|name| is_card(name));
    let cards: Vec<_> = cards.collect();
    let told = cards.iter().find_map(|card| {
        let device = format!("/sys/block/{card}/device");
        let life = root.line(format!("{device}/life_time"))?;
        let end = root.line(format!("{device}/pre_eol_info")).unwrap_or_default();
        Some((card, life, end))
    });
    let Some((card, life, end)) = told else {
        return match cards.first() {
            Some(card) => Check::not_applicable(
                NAME,
                format!(
                    "{card} is an SD card, and those do not tell; what is written: wear on the health page"
                ),
            ),
            None => Check::not_applicable(NAME, "no SD card or eMMC"),
        };
    };
    let tenths = life.split_ascii_whitespace().filter_map(hexadecimal).max().unwrap_or(0);
    let means = "when it is used up, writes fail or the card turns read-only";
    let mend = "plan to exchange it; a budget slows its wear: store.write_mb_per_day";
    let found = match tenths {
        0 => format!("{card} does not say how much of its life is used"),
        11.. => format!("{card} is beyond its life"),
        tenths => format!("{card}: {} to {} % of its life are used", (tenths - 1) * 10, tenths * 10),
    };
    match (tenths, hexadecimal(&end).unwrap_or(0)) {
        (11.., _) | (_, 3) => Check::error(NAME, format!("{found}{}", reserve(&end))).means(means).mend(mend),
        (9.., _) | (_, 2) => {
            Check::warning(NAME, format!("{found}{}", reserve(&end))).means(means).mend(mend)
        }
        _ => Check::ok(NAME, found),
    }
}

fn reserve(end: &str) -> &'static str {
    match hexadecimal(end) {
        Some(2) => "; of its reserved blocks 80 % are used",
        Some(3) => "; of its reserved blocks 90 % are used",
        _ => "",
    }
}

fn hexadecimal(text: &str) -> Option<u8> {
    u8::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// Not its boot partitions.
fn is_card(name: &str) -> bool {
    name.strip_prefix("mmcblk").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}
