import { BackupError } from '../core/errors.ts';
import { quoted } from './layout.ts';

/**
 * A value that `backup.info` writes as a Python literal. Whole numbers beyond 2^53 are bigint; dictionaries are maps,
 * for objects would change the order of keys that look like numbers.
 */
export type LiteralValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly LiteralValue[]
  | Tuple
  | ReadonlyMap<LiteralValue, LiteralValue>;

/** A Python tuple; lists are arrays. */
export class Tuple {
  readonly items: readonly LiteralValue[];

  constructor(items: readonly LiteralValue[]) {
    this.items = items;
  }
}

const MAX_TEXT = 1024 * 1024;
const MAX_DEPTH = 32;

/**
 * Reads one Python literal: `None`, booleans, numbers, strings, lists, tuples and dictionaries. JSON's words are
 * understood as well.
 *
 * @throws BackupError `format-invalid` for everything else, for more than 1 MiB, and for nesting deeper than 32
 */
export function parseLiteral(text: string): LiteralValue {
  if (text.length > MAX_TEXT) throw invalid(`a literal of ${text.length} characters is too long`);
  const parser = new LiteralParser(text);
  const value = parser.value(0);
  parser.end();
  return value;
}

function invalid(message: string): BackupError {
  return new BackupError('format-invalid', message);
}

const WORDS: ReadonlyMap<string, null | boolean> = new Map([
  ['None', null],
  ['null', null],
  ['True', true],
  ['true', true],
  ['False', false],
  ['false', false],
]);

const ESCAPES: Readonly<Record<string, string>> = {
  '\\': '\\',
  "'": "'",
  '"': '"',
  '/': '/', // JSON's
  n: '\n',
  r: '\r',
  t: '\t',
  a: '\x07',
  b: '\b',
  f: '\f',
  v: '\v',
  '0': '\0',
};

const HEX_DIGITS: Readonly<Record<string, number>> = { x: 2, u: 4, U: 8 };

class LiteralParser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(depth: number): LiteralValue {
    if (depth > MAX_DEPTH) throw this.#unexpected(`nesting deeper than ${MAX_DEPTH}`);
    this.#blanks();
    switch (this.#text[this.#at]) {
      case '[':
        return this.#sequence(']', depth).items;
      case '(': {
        const { items, commas } = this.#sequence(')', depth);
        // one value in brackets is that value; the comma makes the tuple
        return items.length === 1 && commas === 0 ? (items[0] as LiteralValue) : new Tuple(items);
      }
      case '{':
        return this.#dictionary(depth);
      case "'":
      case '"':
        return this.#string();
      default:
        return this.#wordOrNumber();
    }
  }

  end(): void {
    this.#blanks();
    if (this.#at < this.#text.length) throw this.#unexpected('nothing more');
  }

  #blanks(): void {
    while (this.#text[this.#at] === ' ' || this.#text[this.#at] === '\t') this.#at += 1;
  }

  #take(character: string): boolean {
    this.#blanks();
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #sequence(close: string, depth: number): { items: LiteralValue[]; commas: number } {
    this.#at += 1;
    const items: LiteralValue[] = [];
    let commas = 0;
    while (!this.#take(close)) {
      if (items.length > commas) throw this.#unexpected(`"," or "${close}"`);
      items.push(this.value(depth + 1));
      if (this.#take(',')) commas += 1;
    }
    return { items, commas };
  }

  #dictionary(depth: number): Map<LiteralValue, LiteralValue> {
    this.#at += 1;
    const entries = new Map<LiteralValue, LiteralValue>();
    let isComplete = false;
    while (!this.#take('}')) {
      if (isComplete) throw this.#unexpected('"," or "}"');
      const key = this.value(depth + 1);
      if (!this.#take(':')) throw this.#unexpected('":"');
      entries.set(key, this.value(depth + 1));
      isComplete = !this.#take(',');
    }
    return entries;
  }

  #string(): string {
    const quote = this.#text[this.#at];
    let result = '';
    for (this.#at += 1; ; this.#at += 1) {
      const character = this.#text[this.#at];
      if (character === undefined || character === '\n') throw this.#unexpected('the end of the string');
      if (character === quote) break;
      result += character === '\\' ? this.#escape() : character;
    }
    this.#at += 1;
    return result;
  }

  /** Reads the escape at the backslash, up to its last character. */
  #escape(): string {
    this.#at += 1;
    const kind = this.#text[this.#at] ?? '';
    const digits = HEX_DIGITS[kind];
    if (digits === undefined) {
      const plain = ESCAPES[kind];
      if (plain === undefined || /^0\d/.test(this.#text.slice(this.#at, this.#at + 2))) {
        throw this.#unexpected('a known escape');
      }
      return plain;
    }
    const hex = this.#text.slice(this.#at + 1, this.#at + 1 + digits);
    const codePoint = Number.parseInt(hex, 16);
    if (!/^[0-9A-Fa-f]+$/.test(hex) || hex.length !== digits || codePoint > 0x10ffff) {
      throw this.#unexpected('a code point');
    }
    this.#at += digits;
    return String.fromCodePoint(codePoint);
  }

  #wordOrNumber(): LiteralValue {
    const token = /^[A-Za-z0-9_.+-]*/.exec(this.#text.slice(this.#at, this.#at + 400))?.[0] ?? '';
    const next = this.#text[this.#at + 1];
    // very old files have u'…'
    if (/^[uU]$/.test(token) && (next === "'" || next === '"')) {
      this.#at += 1;
      return this.#string();
    }
    const word = WORDS.get(token);
    const value = word === undefined ? parseNumber(token) : word;
    if (value === undefined) throw this.#unexpected('a value');
    this.#at += token.length;
    return value;
  }

  #unexpected(expected: string): BackupError {
    const rest = this.#text.slice(this.#at, this.#at + 40);
    const found = rest === '' ? 'its end' : quoted(rest);
    return invalid(`not a Python literal: expected ${expected} at character ${this.#at}, found ${found}`);
  }
}

function parseNumber(token: string): number | bigint | undefined {
  if (/^-?(?:0+|[1-9]\d{0,99})$/.test(token)) {
    const number = Number(token);
    return Number.isSafeInteger(number) ? number : BigInt(token);
  }
  return /^-?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d{1,3})?$/.test(token) ? Number(token) : undefined;
}

/**
 * Writes a value as Python's `repr` does, on one line. Plain objects are written like maps.
 *
 * @throws BackupError `format-invalid` for numbers that Python has no literal for
 */
export function formatLiteral(value: LiteralValue | Readonly<Record<string, LiteralValue>>): string {
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'number') return formatNumber(value);
  if (typeof value === 'bigint') return value.toString();
  return typeof value === 'string' ? formatString(value) : formatCollection(value);
}

function formatCollection(value: Exclude<LiteralValue, null | string | number> | object): string {
  if (value instanceof Tuple) {
    const items = value.items.map(formatLiteral);
    return items.length === 1 ? `(${items[0]},)` : `(${items.join(', ')})`;
  }
  if (Array.isArray(value)) return `[${value.map(formatLiteral).join(', ')}]`;
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  return `{${entries.map(([key, item]) => `${formatLiteral(key)}: ${formatLiteral(item)}`).join(', ')}}`;
}

/** Python turns to exponents earlier than JavaScript, for small numbers and for large ones. */
function formatNumber(value: number): string {
  if (!Number.isFinite(value)) throw invalid(`${value} can not be written as a Python literal`);
  if (Number.isSafeInteger(value)) return String(value);
  const [digits, exponent] = value.toExponential().split('e') as [string, string];
  const power = Number(exponent);
  if (power >= -4 && power < 16) return Number.isInteger(value) ? `${value}.0` : String(value);
  return `${digits}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
}

function formatString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  let result = '';
  for (const character of text) {
    if (character === '\\' || character === quote) result += `\\${character}`;
    else if (character === '\n') result += '\\n';
    else if (character === '\r') result += '\\r';
    else if (character === '\t') result += '\\t';
    else if (character === ' ' || !/[\p{C}\p{Z}]/u.test(character)) result += character;
    else result += escapeCodePoint(character.codePointAt(0) as number);
  }
  return quote + result + quote;
}

function escapeCodePoint(codePoint: number): string {
  const hex = codePoint.toString(16);
  if (codePoint < 0x100) return `\\x${hex.padStart(2, '0')}`;
  return codePoint < 0x1_0000 ? `\\u${hex.padStart(4, '0')}` : `\\U${hex.padStart(8, '0')}`;
}

/** The value as JSON can say it: tuples as arrays, keys as text, large whole numbers as text. */
export function literalToJson(value: LiteralValue): unknown {
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Tuple) return value.items.map(literalToJson);
  if (isList(value)) return value.map(literalToJson);
  return Object.fromEntries([...value].map(([key, item]) => [keyText(key), literalToJson(item)]));
}

function keyText(key: LiteralValue): string {
  return typeof key === 'string' ? key : formatLiteral(key);
}

function isList(value: LiteralValue): value is readonly LiteralValue[] {
  return Array.isArray(value);
}
