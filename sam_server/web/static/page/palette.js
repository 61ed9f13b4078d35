// Okabe & Ito 2008, Color Universal Design: told apart with every kind of colour vision. The same as the server's overlay.
const COLOURS = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167],
];

/** CSS colour of a number. */
export function colour(number, alpha = 1) {
  const [red, green, blue] = COLOURS[number % COLOURS.length];
  return `rgb(${red} ${green} ${blue} / ${alpha})`;
}
