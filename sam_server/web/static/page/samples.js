// Pictures that ship with the page.

import { complain } from "./messages.js";
import { el } from "./dom.js";

const SAMPLES = [
  { file: "droplets.jpg", thumbnail: "thumb_droplets.webp", name: "Droplets", by: "drawn", alt: "Drawn droplets of two sizes" },
  { file: "coins.jpg", thumbnail: "thumb_coins.webp", name: "Coins", by: "drawn", alt: "Drawn coins on cloth" },
  { file: "coffee.jpg", thumbnail: "thumb_coffee.webp", name: "Coffee", by: "photo, CC0", alt: "A cup of coffee on a wooden table, by Rachel Michetti" },
];

/** Fill a list with the samples; `open` takes a blob and its name. */
export function loadSamples(list, open) {
  for (const { file, thumbnail, name, by, alt } of SAMPLES) {
    const take = async () => {
      try {
        const answer = await fetch(`page/samples/${file}`);
        if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
        await open(await answer.blob(), file);
      } catch (error) {
        complain("The sample could not be loaded", error);
      }
    };
    const picture = el("img", { src: `page/samples/${thumbnail}`, alt, width: 150, height: 112 });
    list.append(el("li", {}, el("button", { type: "button", "data-sample": file, onclick: take }, picture, el("span", {}, name, el("small", {}, by)))));
  }
}
