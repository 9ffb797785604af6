import type { z } from 'zod';
import { closestName } from './closest-name.ts';
import { oneOf, show, type FieldPath, type Finding } from './problem.ts';
import { isRecord } from './unknown-fields.ts';

/** Turns what Zod found into findings that say what to write. `masked`: no value may be shown. */
export function schemaFindings(
  issues: readonly z.core.$ZodIssue[],
  value: unknown,
  masked: boolean,
): Finding[] {
  return issues.map((issue) => {
    const path = issue.path.filter((step) => typeof step !== 'symbol');
    const found = valueAt(value, path);
    return { path, severity: 'error', ...explain(issue, found, path, masked) };
  });
}

function explain(issue: z.core.$ZodIssue, found: unknown, path: FieldPath, masked: boolean) {
  switch (issue.code) {
    case 'custom':
      return {
        message: issue.message,
        fix: typeof issue.params?.['fix'] === 'string' ? issue.params['fix'] : '',
      };
    case 'invalid_type':
      return found === undefined ? missing(path) : wrongType(issue.expected, found, path, masked);
    case 'invalid_value':
      return found === undefined ? missing(path) : notAllowed(issue.values, found, masked);
    case 'too_small':
      if (issue.origin === 'string' || issue.origin === 'array')
        return { message: 'is empty', fix: 'write at least one' };
      return {
        message: `${masked ? 'it' : String(found)} is too small`,
        fix: `write ${String(issue.minimum)} or more`,
      };
    case 'too_big':
      return {
        message: `${masked ? 'it' : String(found)} is too large`,
        fix: `write ${String(issue.maximum)} or less`,
      };
    case 'invalid_union':
      return found === undefined ? missing(path) : explainUnion(issue, found, path, masked);
    case 'invalid_key':
      return {
        message: `${show(String(path.at(-1)))} can not stand here as a key`,
        fix: 'use lower-case letters, digits and -',
      };
    default:
      return { message: 'is not valid here', fix: '' };
  }
}

/** The branch that took the type speaks for a union; else what the branches expect is listed. */
function explainUnion(
  issue: z.core.$ZodIssueInvalidUnion,
  found: unknown,
  path: FieldPath,
  masked: boolean,
): { message: string; fix: string } {
  const values = issue.errors.flat().flatMap((inner) => (inner.code === 'invalid_value' ? inner.values : []));
  if (!isRecord(found) && values.length > 0) return notAllowed(values, found, masked);
  const deeper = issue.errors.flat().find((inner) => inner.path.length > 0 || inner.code === 'custom');
  if (deeper) return explain(deeper, found, path, masked);
  return {
    message: `found ${describe(found, masked)}`,
    fix: 'see docs/manifests.md for what can stand here',
  };
}

const EXAMPLES: ReadonlyMap<string, string> = new Map([
  ['destinationPath', 'destinationPath: s3://BUCKET/PREFIX'],
  ['schedule', 'schedule: "0 0 2 * * *"'],
  ['name', 'name: NAME'],
  ['key', 'key: KEY, the key inside the Secret'],
  ['cluster', 'cluster: {name: CLUSTER}'],
  ['clusters', 'clusters: [CLUSTER]'],
  ['metadata', 'metadata: {name: NAME}'],
  ['configuration', 'configuration: {destinationPath: s3://BUCKET/PREFIX}, with its credentials'],
]);

function missing(path: FieldPath) {
  const name = String(path.at(-1) ?? 'it');
  return { message: `${name} is missing`, fix: `add ${EXAMPLES.get(name) ?? name}` };
}

const WORDS: ReadonlyMap<string, string> = new Map([
  ['string', 'text'],
  ['number', 'a number'],
  ['int', 'a whole number'],
  ['boolean', 'true or false'],
  ['object', 'a map'],
  ['record', 'a map'],
  ['array', 'a list'],
]);

function wrongType(expected: string, found: unknown, path: FieldPath, masked: boolean) {
  const message = `${WORDS.get(expected) ?? expected} is expected, found ${describe(found, masked || expected === 'object')}`;
  const scalar = typeof found === 'number' || typeof found === 'boolean';
  if (path.at(-1) === 'retentionPolicy' && scalar)
    return { message, fix: `write the unit too, in quotes: "${String(found)}d"` };
  if (expected === 'string' && scalar) {
    return { message, fix: masked ? 'put it in quotes' : `put it in quotes: "${String(found)}"` };
  }
  if (
    expected === 'object' &&
    typeof found === 'string' &&
    path.some((step) => /Credentials$|^endpointCA$/.test(String(step)))
  ) {
    return { message, fix: 'write where the value is, never the value: {name: SECRET, key: KEY}' };
  }
  if (expected === 'array') return { message, fix: 'write a list: each entry begins with "- "' };
  if (expected === 'object' && Array.isArray(found)) return { message, fix: 'remove the "- " before it' };
  if (expected === 'number' || expected === 'int')
    return { message, fix: 'write a whole number, without quotes' };
  return { message, fix: expected === 'boolean' ? 'write true or false, without quotes' : '' };
}

function notAllowed(values: readonly unknown[], found: unknown, masked: boolean) {
  const texts = values.map(String);
  const closest = typeof found === 'string' ? closestName(found, texts) : undefined;
  const hint = closest === undefined ? '' : `did you mean "${closest}"? `;
  const message = `${masked ? 'it' : describe(found, false)} is not allowed here`;
  return { message, fix: `${hint}${texts.length === 1 ? 'write' : 'allowed are'} ${oneOf(texts)}` };
}

function describe(found: unknown, masked: boolean): string {
  if (found === null) return 'nothing';
  if (Array.isArray(found)) return 'a list';
  if (isRecord(found)) return 'a map';
  if (typeof found === 'string') return masked ? 'text' : show(found);
  if (typeof found === 'number') return masked ? 'a number' : String(found);
  return typeof found === 'boolean' && !masked ? String(found) : 'a value';
}

function valueAt(value: unknown, path: FieldPath): unknown {
  let current = value;
  for (const step of path) {
    if (Array.isArray(current)) current = current[Number(step)];
    else if (isRecord(current)) current = Object.hasOwn(current, step) ? current[step] : undefined;
    else return undefined;
  }
  return current;
}
