import { isBackupError } from '../core/errors.ts';

/** Whose exit codes the drop-ins for barman-cloud end with. */
export type CloudExitCodes = 'walkeep' | 'barman';

/** What became of a call. Of `-t` alone: `no-connection` and `no-bucket`. */
export type CloudOutcome = 'done' | 'absent' | 'usage' | 'no-connection' | 'no-bucket' | 'failed';

/** What both answer with `--exit-codes=barman`: the numbers of barman-cloud. */
const BARMAN: Readonly<Record<CloudOutcome, number>> = {
  done: 0,
  absent: 1,
  'no-bucket': 1,
  'no-connection': 2,
  usage: 3,
  failed: 4,
};

/** PostgreSQL counts 1 to 125 as a failure of the command and asks again (A1, A5). */
export function archiveExitCode(outcome: CloudOutcome, codes: CloudExitCodes): number {
  if (codes === 'barman') return BARMAN[outcome];
  if (outcome === 'done') return 0;
  return outcome === 'usage' ? 2 : 1;
}

/**
 * For C3: 1 only for an absence that was proved. For all else more than 125 makes a recovery stop without promoting, and up to
 * 125 makes a standby wait and ask again.
 */
export function restoreExitCode(outcome: CloudOutcome, codes: CloudExitCodes, isStandby: boolean): number {
  if (codes === 'barman') return BARMAN[outcome];
  if (outcome === 'done') return 0;
  if (outcome === 'absent') return 1;
  return (isStandby ? 100 : 200) + (outcome === 'usage' ? 2 : 0);
}

/**
 * Reads `--exit-codes` before everything else: a command line that is wrong elsewhere is answered in the codes it asks for, too.
 */
export function wantedExitCodes(argv: readonly string[]): CloudExitCodes {
  const isBarmans = argv.some(
    (word, at) => word === '--exit-codes=barman' || (word === '--exit-codes' && argv[at + 1] === 'barman'),
  );
  return isBarmans ? 'barman' : 'walkeep';
}

/** @param isTest whether it was `-t`, the only one that barman tells such failures apart for */
export function outcomeOfFailure(error: unknown, isTest: boolean): CloudOutcome {
  if (isBackupError(error, 'usage')) return 'usage';
  if (isTest && isBackupError(error, 'bucket-missing')) return 'no-bucket';
  if (isTest && isBackupError(error, 'store-unavailable', 'deadline-exceeded')) return 'no-connection';
  return 'failed';
}
