"""A chart of lines over training steps as an SVG, for pages of results. Standard library only."""
import math

COLORS = ["#1b6ca8", "#d1495b", "#2e8b57", "#8a5cd1", "#c77d00", "#444444"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 480, 60, 200, 20, 45


def line(label, points, marks=(), color=None, dashes=None):
    """points: (step, value) of a line; marks: of dots on it. color: index in COLORS (default: the line's own). Without a label it is not in the legend."""
    return {"label": label, "points": points, "marks": marks, "color": color, "dashes": dashes}


def ticks(low, high, log):
    """(value, text) of the horizontal lines; on a logarithmic axis all are logarithms."""
    if log:
        return [(k, f"1e{k}") for k in range(math.ceil(low), math.floor(high) + 1)]
    unit = next(u for u in (0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 1e9) if (high - low) / u <= 10)
    return [(k * unit, f"{k * unit:.2f}") for k in range(math.ceil(low / unit), math.floor(high / unit) + 1)]


def chart(lines, steps, title, low, high, notes=(), log=False):
    """lines: of line(); title: of the vertical axis, which shows [low, high] and holds what is outside at its ends. notes: below the legend."""
    scale = math.log10 if log else float
    low, high = scale(low), scale(high)

    def x_of(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / steps

    def y_at(value):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(value, low), high)) / (high - low)

    def y_of(value):
        return y_at(low if log and value <= 0 else scale(value))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for value, text in ticks(low, high, log):
        y = y_at(value)
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/><text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    unit = next(u * 10**k for k in range(10) for u in (1, 2, 5) if steps / (u * 10**k) <= 7)
    for step in range(0, steps + 1, unit):
        out.append(f'<text x="{x_of(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    out.append(f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">{title}</text>')
    named = 0
    for k, one in enumerate(lines):
        color = COLORS[(k if one["color"] is None else one["color"]) % len(COLORS)]
        dashes = f' stroke-dasharray="{one["dashes"]}"' if one["dashes"] else ""
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in one["points"])
        out.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"{dashes}/>')
        out += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.5" fill="{color}" stroke="white"/>' for x, y in one["marks"]]
        if one["label"]:
            y = TOP + 16 + 20 * named
            out.append(f'<path d="M{WIDTH - RIGHT + 14} {y - 4}h22" stroke="{color}" stroke-width="3"/>'
                       f'<text x="{WIDTH - RIGHT + 42}" y="{y}">{one["label"]}</text>')
            named += 1
    y = TOP + 26 + 20 * named
    out += [f'<text x="{WIDTH - RIGHT + 14}" y="{y + 16 * k}" fill="#666">{note}</text>' for k, note in enumerate(notes)]
    return "\n".join([*out, "</svg>"]) + "\n"
