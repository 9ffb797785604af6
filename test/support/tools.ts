import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, it } from 'vitest';

/** The repository's own folder. */
export const repositoryRoot = fileURLToPath(new URL('../..', import.meta.url));

/** The majors that walkeep supports, each of which the tests run on. */
export const MAJORS = [15, 16, 17, 18] as const;
export type Major = (typeof MAJORS)[number];

export type Tool =
  | 'temporal'
  | 'versitygw'
  | 'azurite'
  | 'fake-gcs-server'
  | 'barman'
  | 'barman-3.10.0'
  | 'barman-3.20.1'
  | 'tctl';

interface Tools extends Partial<Record<Tool, string>> {
  /** `bin` directories by major. */
  readonly postgres?: Partial<Record<Major, string>>;
}

const tools = readTools();

function readTools(): Tools {
  const file = `${repositoryRoot}/.walkeep/tools.json`;
  // scripts/setup wrote it, a trusted file of this clone.
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Tools) : {};
}

/** The absolute path of a program (of `barman`: of its `bin` directory) that scripts/setup brought. */
export function toolPath(tool: Tool): string {
  const path = tools[tool];
  if (path === undefined || !existsSync(path))
    throw new Error(`${tool} is not there: run scripts/setup test`);
  return path;
}

/** Whether scripts/setup brought it. */
export function hasTool(tool: Tool): boolean {
  return existsSync(tools[tool] ?? '');
}

/** The `bin` directory of a PostgreSQL. */
export function postgresBin(major: Major): string {
  const bin = tools.postgres?.[major];
  if (bin === undefined) throw new Error(`PostgreSQL ${major} is not there: run scripts/setup test`);
  return bin;
}

/** The majors that this host has. */
export function availableMajors(): Major[] {
  return MAJORS.filter((major) => existsSync(tools.postgres?.[major] ?? ''));
}

/**
 * One `describe` for each PostgreSQL major from 15 to 18. One that this host lacks is an announced skip; in CI (CI is
 * set) it is a failure. WALKEEP_TEST_MAJORS (`15,17`) leaves the others out.
 */
export function describeEachMajor(
  title: string,
  body: (major: Major) => void,
  majors: readonly Major[] = MAJORS,
): void {
  const chosen = process.env['WALKEEP_TEST_MAJORS']?.split(',').map(Number);
  const available = availableMajors();
  for (const major of majors) {
    const name = `PostgreSQL ${major}: ${title}`;
    if (chosen && !chosen.includes(major))
      describe.skip(`${name} (left out by WALKEEP_TEST_MAJORS)`, () => body(major));
    else describeIf(available.includes(major), `PostgreSQL ${major}`, name, () => body(major));
  }
}

/** A `describe` that needs tools: without them an announced skip, in CI a failure. */
export function describeWith(needed: Tool | readonly Tool[], title: string, body: () => void): void {
  const missing = [needed].flat().filter((tool) => !existsSync(tools[tool] ?? ''));
  describeIf(missing.length === 0, missing.join(', '), title, body);
}

function describeIf(available: boolean, what: string, title: string, body: () => void): void {
  if (available) describe(title, body);
  else if (process.env['CI'] === undefined) describe.skip(`${title} (skipped: no ${what} here)`, body);
  else {
    it(title, () => {
      throw new Error(`${what} is missing, and in CI nothing is skipped: run scripts/setup test`);
    });
  }
}
