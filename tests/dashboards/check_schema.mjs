// Checks dashboards/*.json against the types that Grafana publishes, for each of its versions in package.json.
// Usage: node check_schema.mjs NODE_MODULES FILE...     scripts/check-deploy runs it
import { createRequire } from "node:module";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";

const [folder, ...files] = process.argv.slice(2);
const modules = resolve(folder);
const ts = createRequire(join(modules, "package.json"))("typescript");

// A literal in a program is checked more strictly than an imported JSON file: unknown keys and words count as errors.
function programs(work) {
  copyFileSync(join(import.meta.dirname, "dashboard_types.ts"), join(work, "dashboard_types.ts"));
  return files.map((file) => {
    const program = join(work, `${basename(file, ".json")}.ts`);
    const text = readFileSync(file, "utf8");
    writeFileSync(program, `import type { DashboardFile } from "./dashboard_types";\nexport const file: DashboardFile = ${text};\n`);
    return program;
  });
}

function faults(version, roots) {
  const types = join(modules, version, "dist");
  const kinds = ["types", "esm"].map((kind) => join(types, kind)).filter(existsSync);
  const index = [...kinds, types].map((place) => join(place, "index.d.ts")).find(existsSync);
  const program = ts.createProgram(roots, {
    noEmit: true, strict: true, skipLibCheck: true, types: [],
    target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler,
    paths: { "raw/*": kinds.map((kind) => join(kind, "raw/*")), "@grafana/schema": [index] },
  });
  return ts.getPreEmitDiagnostics(program).map((fault) => {
    const message = ts.flattenDiagnosticMessageText(fault.messageText, "\n  ");
    if (!fault.file) return message;
    // The first line of a program is not in the dashboard's file.
    const { line } = fault.file.getLineAndCharacterOfPosition(fault.start);
    return `${basename(fault.file.fileName)}:${line}: ${message}`;
  });
}

const work = mkdtempSync(join(tmpdir(), "schema-"));
try {
  const roots = programs(work);
  const versions = readdirSync(modules).filter((name) => name.startsWith("grafana-")).sort();
  if (versions.length === 0 || roots.length === 0) throw new Error(`no types in ${modules}, or no files`);
  for (const version of versions) {
    const found = faults(version, roots);
    for (const fault of found) console.error(`${version}: ${fault}`);
    if (found.length > 0) process.exitCode = 1;
    else console.log(`${roots.length} dashboards agree with the types of ${version}`);
  }
} finally {
  rmSync(work, { recursive: true });
}
