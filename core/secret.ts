import { BackupError } from './errors.ts';

const MASK = '[secret]';
/** Node's hook for `console.log` and `util.inspect`, by its registered name: workflows can't import `node:util`. */
const inspect = Symbol.for('nodejs.util.inspect.custom');

/**
 * A value that must not be seen: key, password, token. Every ordinary way of printing it (template text, JSON,
 * `inspect`, a logger) gives a mask; only `reveal` gives the value, so uses are easy to find.
 */
export class Secret {
  readonly #bytes: Uint8Array;

  constructor(value: string | Uint8Array) {
    this.#bytes = typeof value === 'string' ? new TextEncoder().encode(value) : Uint8Array.from(value);
  }

  /** The value as text. @throws BackupError `config-invalid` when the bytes are not UTF-8 */
  reveal(): string {
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.#bytes);
    } catch {
      // No cause: a decoder's error may quote what it could not read.
      throw new BackupError('config-invalid', 'a secret that is used as text is not valid UTF-8', {
        hint: 'store the secret again, as text',
      });
    }
  }

  /** The value as it was stored, for files and for keys that are not text. */
  revealBytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  toString(): '[secret]' {
    return MASK;
  }

  toJSON(): '[secret]' {
    return MASK;
  }

  [inspect](): '[secret]' {
    return MASK;
  }
}
