import { BackupError } from '../core/errors.ts';

/** An option as barman-cloud's programs have it. */
export interface CloudOption {
  /** The last one is what messages and `CloudArguments` call it: `['-z', '--gzip']`. */
  readonly names: readonly [string, ...string[]];
  /** What its value is called in the help; without it the option takes none. */
  readonly value?: string;
  /** Takes all words up to the next option, which may be none. */
  readonly many?: true;
  readonly choices?: readonly string[];
  /** Of the options of one group only one may be given. */
  readonly group?: string;
  /** For `--help`; empty for an old spelling, which is not shown. */
  readonly help: string;
}

/** A command line, read. Options are asked for by their last name. */
export interface CloudArguments {
  readonly operands: readonly string[];
  has(name: string): boolean;
  /** How often it was given. */
  count(name: string): number;
  /** Its value; of several the last one counts. */
  value(name: string): string | undefined;
  /** All its values, in order. */
  values(name: string): readonly string[];
}

/**
 * Reads a command line as Python's argparse does, which reads barman-cloud's: options anywhere, `--name=value`, `-Pvalue`,
 * `-vv`, beginnings of long names where they are clear, `--`. Values are in no message: a secret may have been put among them
 * by mistake.
 *
 * @throws BackupError `usage`
 */
export function parseCloudArguments(
  argv: readonly string[],
  options: readonly CloudOption[],
  hint: string,
): CloudArguments {
  const given = new Map<string, string[][]>();
  const operands: string[] = [];
  const refuse = (message: string): never => {
    throw new BackupError('usage', message, { hint });
  };

  const take = (option: CloudOption, inline: string | undefined, rest: string[]): void => {
    const name = nameOf(option);
    const words = inline === undefined ? valuesOf(option, rest) : [inline];
    if (option.value === undefined && inline !== undefined) refuse(`${name} takes no value`);
    if (option.value !== undefined && !option.many && words.length === 0) refuse(`${name} needs a value`);
    const { choices } = option;
    if (choices && !words.every((word) => choices.includes(word)))
      refuse(`${name} expects one of ${choices.join(', ')}`);
    given.set(name, [...(given.get(name) ?? []), words]);
  };
  const takeLetters = (letters: string, rest: string[]): void => {
    for (let at = 0; at < letters.length; at++) {
      const option =
        options.find(({ names }) => names.includes(`-${letters[at]}`)) ??
        refuse(`unknown option -${letters[at]}`);
      if (option.value === undefined) {
        take(option, undefined, rest);
        continue;
      }
      const inline = letters.slice(at + 1).replace(/^=/, '');
      take(option, inline === '' ? undefined : inline, rest);
      return;
    }
  };

  const rest = [...argv];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === '--') operands.push(...rest.splice(0));
    else if (word.startsWith('--')) {
      const [name, inline] = splitOnce(word);
      take(findLong(name, options, refuse), inline, rest);
    } else if (isOption(word)) takeLetters(word.slice(1), rest);
    else operands.push(word);
  }
  refuseTwoOfOneGroup(options, given, refuse);

  const values = (name: string): string[] => (given.get(name) ?? []).flat();
  return {
    operands,
    has: (name) => given.has(name),
    count: (name) => given.get(name)?.length ?? 0,
    value: (name) => values(name).at(-1),
    values,
  };
}

type Refuse = (message: string) => never;

const nameOf = ({ names }: CloudOption): string => names.at(-1) ?? names[0];

/** A number below zero is a value: zstd has such levels. */
const isOption = (word: string): boolean => /^-./.test(word) && !/^-\d+$/.test(word);

/** Takes the values that follow an option off `rest`. */
function valuesOf({ value, many }: CloudOption, rest: string[]): string[] {
  if (value === undefined) return [];
  const end = rest.findIndex(isOption);
  const available = end < 0 ? rest.length : end;
  return rest.splice(0, many ? available : Math.min(1, available));
}

function findLong(name: string, options: readonly CloudOption[], refuse: Refuse): CloudOption {
  const exact = options.find(({ names }) => names.includes(name));
  if (exact) return exact;
  const fitting = options.filter(({ names }) => names.some((candidate) => candidate.startsWith(name)));
  const [only] = fitting;
  if (only && fitting.length === 1) return only;
  const shown = /^--[a-z-]{1,40}$/.test(name) ? name : '(not a name)';
  return refuse(
    only ? `${shown} may be any of ${fitting.map(nameOf).join(', ')}` : `unknown option ${shown}`,
  );
}

function refuseTwoOfOneGroup(
  options: readonly CloudOption[],
  given: ReadonlyMap<string, unknown>,
  refuse: Refuse,
): void {
  const seen = new Map<string, string>();
  for (const option of options) {
    const name = nameOf(option);
    if (option.group === undefined || !given.has(name)) continue;
    const other = seen.get(option.group);
    if (other !== undefined) refuse(`${other} and ${name} can't be given together`);
    seen.set(option.group, name);
  }
}

function splitOnce(text: string): [string, string | undefined] {
  const at = text.indexOf('=');
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** The options as lines for `--help`, in two columns. */
export function describeOptions(options: readonly CloudOption[]): string {
  const column = 30;
  return options
    .filter(({ help }) => help !== '')
    .map((option) => {
      const head = `  ${option.names.join(', ')}${option.value === undefined ? '' : ` ${option.value}`}`;
      const lines = wrapped(option.help, 110 - column);
      const first = head.length < column ? head.padEnd(column) + (lines.shift() ?? '') : head;
      return [first, ...lines.map((line) => ' '.repeat(column) + line)].join('\n');
    })
    .join('\n');
}

function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + word.length >= width) {
      lines.push(line);
      line = '';
    }
    line += line === '' ? word : ` ${word}`;
  }
  return [...lines, line];
}
