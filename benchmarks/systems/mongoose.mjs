// Mongoose in a process of Node's, with the same protocol as benchmarks/worker.py.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.env.EARNORM_BENCH_NODE_MODULES + "/");
const mongoose = require("mongoose");
const sizes = JSON.parse(process.env.EARNORM_BENCH_SIZES_JSON);

const personFields = {
  name: { type: String, required: true, maxlength: 80 },
  email: { type: String, required: true, match: /^[^@\s]+@[^@\s]+\.[^@\s]+$/ },
  age: { type: Number, required: true, min: 0, max: 150 },
  city: { type: String, required: true },
  street: { type: String, required: true },
  phone: String,
  score: { type: Number, required: true },
  visits: { type: Number, required: true },
  active: { type: Boolean, required: true },
  note: String,
};
const quiet = { versionKey: false, autoIndex: false, autoCreate: false };
const schema = (fields) => new mongoose.Schema(fields, quiet);
const id = mongoose.Schema.Types.ObjectId;
const Person = mongoose.model("Person", schema(personFields), "people");
const Streamed = mongoose.model("Streamed", schema(personFields), "stream");
const Inserted = mongoose.model("Inserted", schema(personFields), "inserted");
const address = new mongoose.Schema({ street: String, city: String, code: String }, { _id: false });
const Customer = mongoose.model(
  "Customer",
  schema({ name: String, email: String, age: Number, active: Boolean, address }),
  "customers",
);
mongoose.model("Country", schema({ name: String }), "countries");
const Author = mongoose.model("Author", schema({ name: String, country: { type: id, ref: "Country" } }), "authors");
const Post = mongoose.model("Post", schema({ title: String, author: { type: id, ref: "Author" } }), "posts");
const Comment = mongoose.model("Comment", schema({ text: String, post: { type: id, ref: "Post" } }), "comments");

const person = (n) => ({
  name: `Person ${n}`,
  email: `person${n}@example.com`,
  age: n % 90,
  city: `City ${n % 50}`,
  street: `Street ${n % 300}`,
  phone: `+49 ${String(n).padStart(9, "0")}`,
  score: n / 4 + 0.125,
  visits: n % 1000,
  active: n % 3 === 0,
  note: `a note of ordinary length about number ${n}`,
});
const range = (n) => Array.from({ length: n }, (_, i) => i);
const oid = (n) => new mongoose.Types.ObjectId("65a00000" + n.toString(16).padStart(16, "0"));
const ids = range(Math.min(sizes.calls, sizes.people)).map(oid);
const few = Math.max(5, Math.floor(sizes.calls / 25));
let turn = 0;
let values = [];
const bad = { name: "x", email: "nobody", age: -1, city: "c", street: "s", score: 1.0 };

const work = {
  async insert_one() {
    for (const each of values) await Inserted.create(each);
    return Inserted.countDocuments();
  },
  insert_many: async () => (await Inserted.insertMany(values)).length,
  find_two: async () => (await Person.find()).map((r) => [r.name, r.age]),
  find_flat: async () =>
    (await Person.find()).map((r) => [
      r.name, r.email, r.age, r.city, r.street, r.phone, r.score, r.visits, r.active, r.note,
    ]),
  find_embedded: async () =>
    (await Customer.find()).map((r) => [
      r.name, r.email, r.age, r.active, r.address.street, r.address.city, r.address.code,
    ]),
  async stream() {
    let total = 0;
    for await (const r of Streamed.find().cursor()) total += r.age + r.name.length;
    return total;
  },
  async get() {
    const seen = [];
    for (const pk of ids) seen.push((await Person.findById(pk)).name);
    return seen;
  },
  async get_tasks() {
    const each = Math.max(1, Math.floor((sizes.calls * 2) / sizes.tasks));
    const task = async (t) => {
      const seen = [];
      for (const n of range(each)) seen.push((await Person.findById(ids[(t * each + n) % ids.length])).name);
      return seen;
    };
    return Promise.all(range(sizes.tasks).map(task));
  },
  async filtered() {
    const seen = [];
    for (const n of range(sizes.calls)) {
      const found = await Person.find({ city: `City ${n % 50}`, age: { $gt: 20 } }).sort("-age").limit(20);
      seen.push(found.map((r) => r.age));
    }
    return seen;
  },
  async save() {
    const record = await Person.findById(ids[0]);
    for (const n of range(sizes.calls)) {
      record.visits = turn + n;
      await record.save();
    }
    return (await Person.findById(ids[0])).visits - turn;
  },
  async save_many() {
    const posts = await Post.find();
    posts.forEach((post, n) => { post.title = `Post ${n} of ${turn}`; });
    await Post.bulkSave(posts);
    return posts.length;
  },
  async update() {
    let changed = 0;
    for (const n of range(few)) {
      changed += (await Person.updateMany({ city: `City ${n}` }, { phone: `+49 ${turn}` })).matchedCount;
    }
    return changed;
  },
  posts_eager: async () => (await Post.find().populate("author")).map((p) => p.author.name),
  async posts_lazy() {
    const seen = [];
    for (const post of await Post.find()) seen.push((await post.populate("author")).author.name);
    return seen;
  },
  three_levels: async () =>
    (await Comment.find().populate({ path: "post", populate: { path: "author", populate: "country" } })).map(
      (c) => c.post.author.country.name,
    ),
  async group() {
    let rows = [];
    for (const _ of range(few)) {
      rows = await Person.aggregate([
        { $match: { age: { $gte: 10 } } },
        { $group: { _id: "$city", total: { $sum: "$visits" } } },
        { $sort: { _id: 1 } },
      ]);
    }
    return rows.map((row) => [row._id, row.total]);
  },
  async construct() {
    const made = values.map((each) => new Inserted(each));
    for (const each of made) {
      const problem = each.validateSync();
      if (problem) throw problem;
    }
    return made.length;
  },
  async invalid() {
    let refused = 0;
    for (const _ of range(sizes.inserts)) if (new Inserted(bad).validateSync()) refused += 1;
    return refused;
  },
};

// Python writes 5.0 where JavaScript writes 5; the scores of these documents never are whole numbers.
const digest = (seen) => {
  const text = JSON.stringify(seen);
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
};
const answer = (said) => console.log(JSON.stringify(said));
await mongoose.connect(process.env.EARNORM_BENCH_URI, { dbName: process.env.EARNORM_BENCH_DATABASE });
answer({
  ready: "Mongoose",
  // With what was imported above, and without the start of node itself.
  opened: (performance.now() - performance.nodeTiming.bootstrapComplete) / 1000,
  rss: Math.round(process.memoryUsage().rss / 1024),
  versions: { mongoose: mongoose.version, node: process.versions.node },
});
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  try {
    if (!asked.run || !work[asked.run]) {
      answer({ missing: asked.run ?? "" });
      continue;
    }
    turn = asked.turn;
    if (asked.run === "insert_many" || asked.run === "construct") values = range(sizes.people).map(person);
    if (asked.run === "insert_one") values = range(sizes.inserts).map(person);
    if (global.gc) global.gc();
    const busy = process.cpuUsage();
    const start = performance.now();
    const seen = await work[asked.run]();
    const wall = (performance.now() - start) / 1000;
    const used = process.cpuUsage(busy);
    answer({ wall, cpu: (used.user + used.system) / 1e6, digest: digest(seen) });
  } catch (error) {
    answer({ error: String(error) });
  }
}
await mongoose.disconnect();
