// Runs calls of the console's modules on the input that the tests pack, and prints what they return as JSON.
import { readFileSync } from "node:fs";

const [folder, input] = process.argv.slice(2);
const { Core } = await import(`${folder}/core.js`);
const { unpack } = await import(`${folder}/data.js`);
const replay = await import(`${folder}/replay.js`);
const { Model } = await import(`${folder}/model.js`);
const save = await import(`${folder}/save.js`);

const core = await Core.load(readFileSync(`${folder}/core.wasm`));
const { calls } = await unpack(readFileSync(input, "utf-8"));

const functions = {
  core: ({ name, given }) => core[name](...given),
  policy_weights: ({ network, tasks, formula, given }) => {
    const [context, predictions, offsets, scenarios, multipliers] = given;
    const policy = core.makePolicy(network, tasks, formula);
    return core.policyWeights(policy, context, predictions, offsets, tasks, scenarios, multipliers);
  },
  mean_lift: ({ fresh, old, users }) => replay.meanLift(fresh, old, users),
  mean: ({ values, users }) => replay.meanOf(values, users),
  exact: ({ wanted }) => save.exactWeights(wanted),
  zip: ({ files }) => save.zip(files),
  // The page of a record with moved sliders: order, lifts, the saved policy.
  page: ({ record, sliders, rules }) => {
    const model = new Model(core, record);
    const yours = model.yours(sliders, rules ?? {});
    const saved =
      sliders.mode !== "tradeoffs"
        ? save.staticPolicy(core, record.policy, record.tasks, sliders.weights)
        : save.tradeOffPolicy(core, record.policy, record.tasks, [...sliders.multipliers]);
    return {
      check: model.check(),
      pages: yours.pages,
      scores: yours.scores,
      weights: yours.weights,
      lifts: model.lifts(yours, sliders, record.over),
      zip: saved,
      contributions: record.arms.map((_, i) => model.contributions(model.arms[i], 0)),
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
