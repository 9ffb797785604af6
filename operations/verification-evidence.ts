import type { Verification, VerificationCheck, VerificationResult } from '../core/verification.ts';
import type { ChosenVerification } from './verification-choice.ts';

/** What is known from the beginning. */
export type EvidenceFrame = Pick<
  Verification,
  'id' | 'name' | 'namespace' | 'cluster' | 'host' | 'instance' | 'walkeepVersion' | 'target'
> & { readonly startedAt: Date };

type Measured = Partial<
  Pick<
    Verification,
    | 'reachedLsn'
    | 'reachedTime'
    | 'timeline'
    | 'rtoSeconds'
    | 'fetchSeconds'
    | 'replaySeconds'
    | 'startSeconds'
    | 'rpoSeconds'
    | 'contentBytes'
    | 'storedBytes'
    | 'walSegments'
    | 'postgresVersion'
  >
>;

const MOST_CHECKS = 60;
const MOST_WARNINGS = 20;
const LONGEST_TEXT = 500;

/** Gathers what a verification finds; whatever ends it, this is what is known by then. */
export class Evidence {
  readonly #frame: EvidenceFrame;
  #target: Verification['target'];
  #backup: Pick<Verification, 'backupId' | 'backupName'> | undefined;
  #measured: Measured = {};
  readonly #checks: VerificationCheck[] = [];
  readonly #warnings: string[] = [];

  constructor(frame: EvidenceFrame) {
    this.#frame = frame;
    this.#target = frame.target;
  }

  get backupId(): string | undefined {
    return this.#backup?.backupId;
  }

  /** Which backup it is about: known before it is known whether it can be reached. */
  named(backup: Pick<Verification, 'backupId' | 'backupName'>): void {
    this.#backup = backup;
  }

  chose(chosen: ChosenVerification): void {
    const { backupId, backupName, target } = chosen.plan;
    const { kind, value } = target;
    this.named({ backupId, ...(backupName !== undefined && { backupName }) });
    this.#target = { kind, ...(value !== undefined && { value }) };
    for (const warning of chosen.warnings) this.warn(warning);
  }

  measure(measured: Measured): void {
    this.#measured = { ...this.#measured, ...measured };
  }

  /** The time to recover is the sum of its parts: what checks took in between is none of it. */
  concludeTimes(): void {
    const { fetchSeconds = 0, replaySeconds = 0, startSeconds = 0 } = this.#measured;
    this.measure({ rtoSeconds: Math.round((fetchSeconds + replaySeconds + startSeconds) * 1000) / 1000 });
  }

  addCheck(check: VerificationCheck): void {
    this.#checks.push({
      ...check,
      name: shorten(check.name),
      ...(check.object !== undefined && { object: shorten(check.object) }),
      ...(check.detail !== undefined && { detail: shorten(check.detail) }),
    });
  }

  warn(text: string): void {
    this.#warnings.push(shorten(text));
  }

  /** F4: what grows with the database is cut. A failed check always stays. */
  concluded(result: VerificationResult, endedAt: Date, error?: string): Verification {
    const { startedAt, target: _, ...frame } = this.#frame;
    const failed = this.#checks.filter((check) => check.result === 'failed');
    const others = this.#checks.filter((check) => check.result !== 'failed');
    const kept = new Set([...failed, ...others].slice(0, MOST_CHECKS));
    return {
      version: 1,
      ...frame,
      result,
      startedAt: startedAt.toISOString(),
      endedAt: endedAt.toISOString(),
      ...this.#backup,
      target: this.#target,
      ...this.#measured,
      checks: this.#checks.filter((check) => kept.has(check)),
      ...(error !== undefined && { error: shorten(error) }),
      warnings: this.#warnings.slice(0, MOST_WARNINGS),
    };
  }
}

function shorten(text: string): string {
  return text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}…` : text;
}
