/** `error` refuses the whole set; `warning` means something other than its author may expect; `note` informs. */
export type Severity = 'error' | 'warning' | 'note';

/** A place in a document, from its root: `['spec', 'externalClusters', 0, 'name']`. */
export type FieldPath = readonly (string | number)[];

/** What is wrong (or worth knowing) and what to do about it; found without knowing file and line. */
export interface Finding {
  readonly path: FieldPath;
  readonly message: string;
  /** What to write or do instead; empty when there is nothing to do. */
  readonly fix: string;
  readonly severity: Severity;
}

/** What is wrong with one value: said by the rule of its field. */
export interface Fault {
  readonly message: string;
  readonly fix: string;
}

/** A finding with its place in what the user wrote. */
export interface Problem {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly column?: number;
  /** Such as `spec.backup.barmanObjectStore`; empty for the document as a whole. */
  readonly field: string;
  readonly message: string;
  readonly fix: string;
  readonly severity: Severity;
}

/** `spec.externalClusters[0].name`; keys that are no plain words are quoted. */
export function formatPath(path: FieldPath): string {
  return path
    .map((step, index) => {
      if (typeof step === 'number') return `[${step}]`;
      if (!/^[A-Za-z_][A-Za-z0-9_-]*$/.test(step)) return `[${JSON.stringify(step)}]`;
      return index === 0 ? step : `.${step}`;
    })
    .join('');
}

/** One or two lines for people: `prod.yaml:12: error: spec.backup.target: …` and, indented, the fix. */
export function formatProblem(problem: Problem): string {
  const where = `${problem.file}:${problem.line}`;
  const field = problem.field === '' ? '' : `${problem.field}: `;
  const fix = problem.fix === '' ? '' : `\n    ${problem.fix}`;
  return `${where}: ${problem.severity}: ${field}${problem.message}${fix}`;
}

export function hasErrors(problems: readonly { readonly severity: Severity }[]): boolean {
  return problems.some((problem) => problem.severity === 'error');
}

/** `"a", "b" or "c"`. */
export function oneOf(values: readonly string[]): string {
  const quoted = values.map((value) => `"${value}"`);
  const last = quoted.at(-1) ?? '';
  return quoted.length < 2 ? last : `${quoted.slice(0, -1).join(', ')} or ${last}`;
}

/** A value as a message shows it: short, on one line, without control characters. */
export function show(text: string): string {
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, '?');
  return `"${clean.length > 80 ? `${clean.slice(0, 77)}...` : clean}"`;
}
