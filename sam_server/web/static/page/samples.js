// Pictures that ship with the page.

import { complain } from "./messages.js";
import { el } from "./dom.js";

const SAMPLES = [
  { file: "droplets.jpg", name: "Droplets", by: "drawn", alt: "Drawn droplets of two sizes" },
  { file: "coins.jpg", name: "Coins", by: "drawn", alt: "Drawn coins on cloth" },
  { file: "coffee.jpg", name: "Coffee", by: "Rachel Michetti, CC0", alt: "A cup of coffee on a wooden table" },
];

/** Fill a list with the samples; `open` takes a blob and its name. */
export function loadSamples(list, open) {
  for (const { file, name, by, alt } of SAMPLES) {
    const take = async () => {
      try {
        const answer = await fetch(`page/samples/${file}`);
        if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
        await open(await answer.blob(), file);
      } catch (error) {
        complain("The sample could not be loaded", error);
      }
    };
    const thumbnail = el("img", { src: `page/samples/thumb_${file}`, alt, width: 150, height: 112 });
    list.append(el("li", {}, el("button", { type: "button", "data-sample": file, onclick: take }, thumbnail, el("span", {}, name, el("small", {}, by)))));
  }
}
