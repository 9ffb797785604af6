import { BackupError } from '../core/errors.ts';

/** The command line of `wal-push` and `wal-fetch`, read without a library: these two start thousands of times a day. */
export interface WalArguments {
  /** `NAMESPACE/NAME`, or `NAME` in namespace `default`. */
  readonly cluster?: string;
  readonly pgdata?: string;
  /** The state directory. */
  readonly state?: string;
  /** A directory that holds secrets as Kubernetes mounts them. */
  readonly secrets?: string;
  /** `walkeep_recovery.json`, written by a restore. */
  readonly recovery?: string;
  /** Seconds. */
  readonly deadline?: string;
  readonly operands: readonly string[];
}

type Option = Exclude<keyof WalArguments, 'operands'>;

/** @throws BackupError `usage` */
export function parseWalArguments(
  argv: readonly string[],
  known: readonly Option[],
  usage: string,
): WalArguments {
  const options: Partial<Record<Option, string>> = {};
  const operands: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? '';
    if (!word.startsWith('--')) {
      operands.push(word);
      continue;
    }
    const [name, inline] = splitOnce(word.slice(2));
    const option = known.find((candidate) => candidate === name);
    const value = inline ?? argv[++at];
    if (option === undefined || value === undefined) {
      const why = option === undefined ? `unknown option ${word}` : `${word} needs a value`;
      throw new BackupError('usage', why, { hint: `usage: ${usage}` });
    }
    options[option] = value;
  }
  return { ...options, operands };
}

function splitOnce(text: string): [string, string | undefined] {
  const at = text.indexOf('=');
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** `--deadline` in milliseconds. @throws BackupError `usage` */
export function deadlineOf({ deadline }: WalArguments): number | undefined {
  if (deadline === undefined) return undefined;
  const seconds = Number(deadline);
  if (Number.isFinite(seconds) && seconds > 0 && seconds <= 86_400) return seconds * 1000;
  throw new BackupError('usage', `--deadline ${deadline}: a number of seconds is expected`);
}
