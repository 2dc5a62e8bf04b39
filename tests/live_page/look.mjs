// Opens the live page in headless Chromium, as a person would at a desk and on a phone, by day and by night, and checks what
// shows. Prints one JSON line a check: {"name", "fault"}, where a fault is text, or null.
// Usage: node look.mjs '{"modules", "browser", "address", "layers", "pictures", "picture", "token"}'
//   with "picture" it only takes that picture, of what half a minute shows; with "token" it only checks that the token is asked for

import { createRequire } from "node:module";
import { join } from "node:path";

const options = JSON.parse(process.argv[2]);
const puppeteer = createRequire(join(options.modules, "x.js"))("puppeteer-core");
const VIEWS = [["desk", 1280, "light"], ["desk", 1280, "dark"], ["phone", 400, "light"], ["phone", 400, "dark"]];
const PATIENCE = 60_000;

class Fault extends Error {}

function expect(condition, fault) {
  if (!condition) throw new Fault(fault);
}

// Asks the page until the answer is not false. Puppeteer's own way needs eval, which the page's policy refuses.
async function until(page, what, question, ...values) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const answer = await page.evaluate(question, ...values);
    if (answer) return answer;
    expect(Date.now() < end, `waited in vain for ${what}`);
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

// A page that notes what it must not do.
async function open(browser, width, scheme) {
  const page = await browser.newPage();
  const faults = [];
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && faults.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`http://${options.address}/`) && !url.startsWith("data:")) faults.push(`asked elsewhere: ${url}`);
  });
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(`http://${options.address}/`);
  return { page, faults };
}

const looks = (count) => Number(document.body.dataset.looks ?? 0) >= count;
const numbers = () => Object.fromEntries(["rate-note", "acceptance-note", "split-legend", "positions", "running"]
  .map((id) => [id, document.getElementById(id).textContent]));

const moved = (first) => Object.entries(first).every(([id, text]) => document.getElementById(id).textContent !== text);

async function check(browser, name, width, scheme) {
  const { page, faults } = await open(browser, width, scheme);
  await until(page, "the first data", looks, 1);
  const first = await page.evaluate(numbers);
  await until(page, `other numbers than ${JSON.stringify(first)}`, moved, first);
  // Streams come and go, and some of them draft without skipping a layer: all that the page must show is there at some moment.
  const seen = await until(page, "a running stream, skipped sublayers and judged drafts", () => {
    const cells = [...document.querySelectorAll("#map i")];
    const skipped = cells.filter((cell) => Number(cell.dataset.share) > 0).length;
    const positions = document.querySelectorAll(".positions .bar").length;
    if (document.querySelectorAll(".stream").length === 0 || skipped === 0 || positions === 0) return false;
    const channels = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
    const overlong = [...document.querySelectorAll("main *")].filter((one) => !one.closest(".scroll, .u-wrap, u")
      && one.getBoundingClientRect().right > innerWidth + 1);
    return {
      overlong: overlong.map((one) => one.id || one.className || one.tagName).slice(0, 5),
      cells: cells.length,
      skipped,
      plot: document.querySelectorAll("#speedup-chart canvas").length,
      brightness: channels[0] + channels[1] + channels[2],
      state: document.getElementById("state").textContent,
      text: document.body.innerText,
    };
  });
  expect(seen.overlong.length === 0, `wider than the window: ${seen.overlong.join(", ")}`);
  expect(seen.state === "serving", `the state is ${seen.state}`);
  expect(seen.cells === 2 * options.layers, `the map has ${seen.cells} cells, not two for each of ${options.layers} layers`);
  expect(seen.skipped < seen.cells, "all sublayers are skipped");
  expect(seen.plot === 1, `missing drawings: ${JSON.stringify(seen)}`);
  expect((seen.brightness > 384) === (scheme === "light"), `the ground's brightness is ${seen.brightness} in ${scheme} mode`);
  for (const word of ["NaN", "undefined", "Infinity", "[object"]) expect(!seen.text.includes(word), `the page says ${word}`);
  if (options.pictures) await page.screenshot({ path: join(options.pictures, `${name}-${scheme}.png`), fullPage: true });
  expect(faults.length === 0, faults.join("; "));
  await page.close();
}

// A replica with a token shows nothing before it has it.
async function checkToken(browser) {
  const { page, faults } = await open(browser, 1280, "light");
  await until(page, "the question for the token", () => !document.getElementById("login").hidden);
  expect(!(await page.evaluate(looks, 1)), "data without a token");
  await page.type("#login input", options.token);
  await page.click("#login button");
  await until(page, "data with the token", looks, 1);
  expect(await page.evaluate(() => document.getElementById("login").hidden), "it still asks");
  // The browser itself reports the refusals before the token as errors; there must be no others.
  const others = faults.filter((fault) => !fault.includes("401"));
  expect(others.length === 0, others.join("; "));
  await page.close();
}

// The picture of the documentation.
async function photograph(browser) {
  const { page, faults } = await open(browser, 1280, "light");
  await until(page, "half a minute of data", () => document.querySelector(".span").textContent === "last 30 s");
  await page.screenshot({ path: options.picture, fullPage: true });
  expect(faults.length === 0, faults.join("; "));
  await page.close();
}

async function report(name, body) {
  let fault = null;
  try {
    await body();
  } catch (error) {
    fault = error instanceof Fault ? error.message : error.stack;
  }
  console.log(JSON.stringify({ name, fault }));
}

// Chromium's sandbox refuses to run for root, as whom containers often run. The page is our own.
const sandbox = process.getuid() === 0 ? ["--no-sandbox"] : [];
const browser = await puppeteer.launch({ executablePath: options.browser, args: ["--disable-gpu", ...sandbox] });
if (options.picture) {
  await report("picture", () => photograph(browser));
} else if (options.token) {
  await report("token", () => checkToken(browser));
} else {
  for (const [name, width, scheme] of VIEWS) {
    await report(`${name}, ${scheme}`, () => check(browser, name, width, scheme));
  }
}
await browser.close();
