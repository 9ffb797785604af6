import {
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  parseAllDocuments,
  type Document,
  type Node,
  type YAMLError,
} from 'yaml';
import { mergeDuplicateKeys, type Lines } from './duplicate-keys.ts';
import { show, type FieldPath, type Finding, type Severity } from './problem.ts';

/** What is known of a problem before it has a file name. */
export interface PlacedFinding {
  readonly line: number;
  readonly column?: number;
  readonly path: FieldPath;
  readonly message: string;
  readonly fix: string;
  readonly severity: Severity;
}

/** One document of a YAML (or JSON) text, as plain values, with a way back to its lines. */
export interface SourceDocument {
  /** `undefined` when it could not be read; `problems` says why. */
  readonly value: unknown;
  /** From 1. */
  readonly line: number;
  /** Where the field is, or the closest thing around it that exists. */
  place(finding: Finding): PlacedFinding;
  readonly problems: readonly PlacedFinding[];
}

/** Larger texts are no manifests; parsing them would take memory for nothing. */
const MAX_TEXT_BYTES = 8 * 1024 * 1024;
const MAX_ALIASES = 100;
/** Mistakes in the syntax of one document that are told: later ones tend to follow from the first. */
const MAX_SYNTAX_PROBLEMS = 1;

/** Reads every document of `text`; empty ones are left out. Never throws for what the text holds. */
export function readYaml(text: string, options: { readonly mergeDuplicateKeys: boolean }): SourceDocument[] {
  const refuse = (message: string, fix: string): SourceDocument[] => {
    const problem: PlacedFinding = { line: 1, path: [], message, fix, severity: 'error' };
    return [
      { value: undefined, line: 1, place: (finding) => ({ ...finding, line: 1 }), problems: [problem] },
    ];
  };
  if (text.length > MAX_TEXT_BYTES) return refuse('is larger than 8 MiB', 'give manifests only');
  if (text.includes('\u0000')) return refuse('holds NUL characters: it is no text', 'save it as UTF-8');
  const counter = new LineCounter();
  // Not the library's own pretty errors: they quote the line, which may hold a secret.
  const parsed = parseAllDocuments(text.replace(/^\uFEFF/, ''), {
    lineCounter: counter,
    prettyErrors: false,
    uniqueKeys: false,
    merge: true,
    logLevel: 'silent',
  });
  const lines: Lines = (offset) => counter.linePos(offset);
  return Array.isArray(parsed) ? parsed.flatMap((document) => readDocument(document, lines, options)) : [];
}

function readDocument(
  document: Document.Parsed,
  lines: Lines,
  options: { readonly mergeDuplicateKeys: boolean },
): SourceDocument[] {
  const root: Node | null = document.contents;
  const line = lines(root?.range?.[0] ?? document.range[0]).line;
  const place = (finding: Finding): PlacedFinding => {
    const position = lines(offsetOf(document, finding.path));
    return { ...finding, line: position.line, column: position.col };
  };
  // A warning is a tag that means nothing here (`!vault`, `!Ref`): its value would be taken for plain text.
  const faults = [...document.errors, ...document.warnings].slice(0, MAX_SYNTAX_PROBLEMS);
  if (faults.length > 0) {
    return [{ value: undefined, line, place, problems: faults.map((error) => syntaxProblem(error, lines)) }];
  }
  if (root === null || (isScalar(root) && root.value === null)) return [];
  const oddKey = findOddKey(root);
  if (oddKey) {
    const message = 'a key is a map, a list or a reference';
    const fix =
      'write plain keys; a value such as {{ NAME }} of a template has to be filled in, or stand in quotes';
    const problem: PlacedFinding = {
      ...at(oddKey.range?.[0], lines),
      path: [],
      message,
      fix,
      severity: 'error',
    };
    return [{ value: undefined, line, place, problems: [problem] }];
  }
  const masked = isMap(root) && root.get('kind') === 'Secret';
  const { findings, refused } = mergeDuplicateKeys(root, lines, {
    merge: options.mergeDuplicateKeys,
    masked,
  });
  if (refused) return [{ value: undefined, line, place, problems: findings }];
  try {
    return [{ value: document.toJS({ maxAliasCount: MAX_ALIASES }), line, place, problems: findings }];
  } catch (error) {
    // The parser throws a ReferenceError for aliases, and an Error for what stands after <<.
    const message =
      error instanceof ReferenceError
        ? 'refers to its own parts (& and *) too often, or to one that is not there'
        : '<< is followed by something that is no map';
    const problem: PlacedFinding = { line, path: [], message, fix: 'write the parts out', severity: 'error' };
    return [{ value: undefined, line, place, problems: [problem] }];
  }
}

function at(offset: number | undefined, lines: Lines): { line: number; column: number } {
  const { line, col } = lines(offset ?? 0);
  return { line, column: col };
}

/** The first key below `node` that is no plain value. */
function findOddKey(node: unknown): Node | undefined {
  if (isSeq(node)) return firstOf(node.items, findOddKey);
  if (!isMap(node)) return undefined;
  return firstOf(node.items, ({ key, value }) => (isNode(key) && !isScalar(key) ? key : findOddKey(value)));
}

function firstOf<Item, Found>(
  items: readonly Item[],
  find: (item: Item) => Found | undefined,
): Found | undefined {
  for (const item of items) {
    const found = find(item);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** The offset of the key or entry at `path`, or of the closest thing around it that exists. */
function offsetOf(document: Document.Parsed, path: FieldPath): number {
  let node: unknown = document.contents;
  let offset = isNode(node) ? (node.range?.[0] ?? 0) : 0;
  for (const step of path) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(step));
      if (!pair || !isNode(pair.key)) break;
      offset = pair.key.range?.[0] ?? offset;
      node = pair.value;
    } else if (isSeq(node)) {
      const item = node.items[Number(step)];
      if (!isNode(item)) break;
      offset = item.range?.[0] ?? offset;
      node = item;
    } else {
      break;
    }
  }
  return offset;
}

const QUOTE = 'put the value in quotes: "..."';

/** What a syntax error most likely is, in words; the parser's own text may quote a secret. */
function syntaxProblem(error: YAMLError, lines: Lines): PlacedFinding {
  const [message, fix] = explain(error);
  const position = lines(error.pos[0]);
  return { line: position.line, column: position.col, path: [], message, fix, severity: 'error' };
}

function explain(error: YAMLError): readonly [string, string] {
  switch (error.code) {
    case 'TAB_AS_INDENT':
      return ['a tab is used to indent', 'use spaces: YAML allows no tabs there'];
    case 'BAD_INDENT':
      return [
        'the indentation fits neither the line above nor any before',
        'align it with its neighbours, with spaces',
      ];
    case 'BAD_ALIAS':
    case 'ALIAS_PROPS':
      return [
        'a value begins with *, which refers to an anchor that is not there',
        `${QUOTE} (a schedule: "* * * * *")`,
      ];
    case 'BAD_SCALAR_START':
      return [
        'a value begins with a character YAML reserves (such as @ or `)',
        `${QUOTE} (a schedule: "@daily")`,
      ];
    case 'TAG_RESOLVE_FAILED':
      return ['a value has a tag (!...), which means nothing here', QUOTE];
    case 'MISSING_CHAR':
      return [
        'something is not closed, or a ":" has no space after it',
        'check quotes, brackets and ": " up to here',
      ];
    case 'BLOCK_AS_IMPLICIT_KEY':
    case 'MULTILINE_IMPLICIT_KEY':
      return [
        'two "key: value" pairs run into each other',
        'check the indentation here, or put a text with ": " in it in quotes',
      ];
    case 'BAD_DQ_ESCAPE':
      return [
        'a backslash in "..." is followed by a character that makes no escape',
        "use '...', or write \\\\",
      ];
    case 'UNEXPECTED_TOKEN':
    case 'BLOCK_IN_FLOW':
      return [
        'the text breaks off or goes on where it can not',
        'check brackets, quotes and the indentation up to here',
      ];
    default:
      return [`is no valid YAML (${error.code})`, 'check the syntax here'];
  }
}

/** Whether `text` is likely not meant as YAML at all; for messages. */
export function describeRoot(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'string' ? `the text ${show(value)}` : `the value ${show(String(value))}`;
}
