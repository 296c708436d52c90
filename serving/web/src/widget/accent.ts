/** Makes a site's colour readable: darker on a light chat and lighter on a dark one, as far as it takes. */

type Colour = [number, number, number];

const LIGHT: Colour = [240, 236, 227]; // the darkest light surface that it stands on, and the lightest dark one
const DARK: Colour = [42, 40, 36];
const BLACK: Colour = [0, 0, 0];
const WHITE: Colour = [255, 255, 255];
const ENOUGH = 4.6; // WCAG asks for a contrast of 4.5
const STEPS = 20;

/** Returns the values of --hearken-accent and --hearken-on-accent for a colour of CSS; null for what is none. */
export function accent(name: string): { accent: string; onAccent: string } | null {
  const own = parse(name);
  if (!own) return null;
  const light = towards(own, BLACK, LIGHT);
  const dark = towards(own, WHITE, DARK);
  return {
    accent: `light-dark(${css(light)}, ${css(dark)})`,
    onAccent: `light-dark(${css(on(light))}, ${css(on(dark))})`,
  };
}

function parse(name: string): Colour | null {
  const context = CSS.supports("color", name) ? document.createElement("canvas").getContext("2d") : null;
  if (!context) return null;
  context.fillStyle = name;
  context.fillRect(0, 0, 1, 1);
  const [red = 0, green = 0, blue = 0] = context.getImageData(0, 0, 1, 1).data;
  return [red, green, blue];
}

function towards(colour: Colour, end: Colour, surface: Colour): Colour {
  let mixed = colour;
  for (let step = 1; step <= STEPS && contrast(mixed, surface) < ENOUGH; step++) {
    const share = step / STEPS;
    mixed = colour.map((part, index) => Math.round(part * (1 - share) + end[index]! * share)) as Colour;
  }
  return mixed;
}

function on(colour: Colour): Colour {
  return contrast(colour, WHITE) >= contrast(colour, BLACK) ? WHITE : BLACK;
}

function contrast(one: Colour, other: Colour): number {
  const [lighter = 0, darker = 0] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (lighter + 0.05) / (darker + 0.05);
}

/** Relative luminance, as WCAG defines it. */
function luminance(colour: Colour): number {
  const [red = 0, green = 0, blue = 0] = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function css(colour: Colour): string {
  return `rgb(${colour.join(" ")})`;
}
