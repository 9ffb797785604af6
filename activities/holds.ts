import { Context } from '@temporalio/activity';
import { beatWhile } from './beat-while.ts';
import type { BackupReference } from './base-backup.ts';

export interface HoldBackupInput extends BackupReference {
  readonly backupId: string;
  /** What `walkeep.io/hold` says; `null`: it says nothing any more. */
  readonly reason: string | null;
}

export interface HoldPorts {
  setHold(input: HoldBackupInput, signal: AbortSignal): Promise<void>;
}

/** Holds that Backups ask for by their annotation. */
export function createHoldActivities(ports: HoldPorts) {
  return {
    /** Makes the annotation true in the repository. Doing it twice changes nothing. */
    async holdBackup(input: HoldBackupInput): Promise<void> {
      await beatWhile(ports.setHold(input, Context.current().cancellationSignal));
    },
  };
}

export type HoldActivities = ReturnType<typeof createHoldActivities>;
