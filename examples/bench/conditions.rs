//! Conditions of rules of the usual kinds, about values that hardly ever come.

pub fn condition(number: u32) -> String {
    match number % 5 {
        0 => format!("ctx.value > {}.5", 1000 + number),
        1 => format!("ctx.value < -{number}.0 and ctx.unit == 'C'"),
        2 => format!("abs(ctx.value - 20.0) > {} or ctx.metadata.get('fault', False)", 500 + number),
        3 => format!("prev.value is not None and ctx.value - prev.value > {}", 100 + number),
        _ => format!("ctx.sensor_name == 'sensor-{number}' and not -40 < ctx.value < {}", 900 + number),
    }
}
