// Runs calls of the console's modules on the input that the tests pack, and prints what they return as JSON.
import { readFileSync } from "node:fs";

const [folder, input] = process.argv.slice(2);
const { Core } = await import(`${folder}/core.js`);
const { unpack, unpackBytes } = await import(`${folder}/data.js`);
const { meanLift } = await import(`${folder}/replay.js`);
const { Model } = await import(`${folder}/model.js`);
const { exactWeights, zipped } = await import(`${folder}/save.js`);

const core = await Core.load(await unpackBytes(readFileSync(`${folder}/core.txt`, "utf-8")));
const { calls } = await unpack(readFileSync(input, "utf-8"));

const functions = {
  echo: ({ value }) => value,
  sha256: ({ content }) => core.sha256(content),
  rank: ({ policy, requests, tasks, k, search }) => core.rank(policy, core.batch(requests, tasks), k, search),
  mean_lift: ({ fresh, old, users }) => meanLift(fresh, old, users),
  exact: ({ wanted }) => exactWeights(wanted),
  // The page of a record with moved sliders: order, lifts, the saved policy.
  page: ({ record, sliders }) => {
    const model = new Model(core, record);
    const yours = model.yours(sliders);
    return {
      check: model.check(),
      pages: yours.pages,
      weights: yours.weights,
      lifts: model.lifts(yours, sliders.mode, record.control),
      zip: yours.files ? zipped(yours.files) : null,
      contributions: model.arms.map((arm) => model.contributions(arm, 0)),
    };
  },
};

const encoded = (value) => {
  if (ArrayBuffer.isView(value)) {
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64");
    return { dtype: value.constructor.name.replace("Array", "").toLowerCase(), bytes };
  }
  if (Array.isArray(value)) return value.map(encoded);
  if (typeof value === "number" && !Number.isFinite(value)) return null;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, encoded(entry)]));
};

const results = calls.map(({ call, ...given }) => encoded(functions[call](given)));
process.stdout.write(JSON.stringify(results));
