import type { ChosenVerification } from './verification-choice.ts';
import type { Evidence } from './verification-evidence.ts';
import type { Scratch } from './verification-scratch.ts';
import type { VerifyPorts, VerifyProgress, VerifyRequest } from './verify-backup.ts';

/** One verification on its way. */
export interface Run {
  readonly ports: VerifyPorts;
  readonly request: VerifyRequest;
  readonly evidence: Evidence;
  /** Where the scratch directories are. */
  readonly root: string;
  /** In ms since 1970. */
  readonly deadlineAt: number;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: VerifyProgress) => void;
}

/** One copy of a backup, from nothing to its last check. */
export interface Copy {
  readonly run: Run;
  readonly chosen: ChosenVerification;
  readonly scratch: Scratch;
  /** The directory of PostgreSQL's programs. */
  readonly programs: string;
  readonly majorVersion: number;
}

/** How much a verification gives way to others when no policy says it. */
export const DEFAULT_NICE = 10;

/** With three decimals. */
export function seconds(ms: number): number {
  return Math.round(ms) / 1000;
}
