// Undo and redo: every step is a whole document that is never changed, only replaced.

const LIMIT = 500; // steps; documents share what did not change between them

export class History {
  constructor(first) {
    this.past = [];
    this.present = first;
    this.future = [];
  }

  /** Take a step. */
  push(next) {
    this.past.push(this.present);
    if (this.past.length > LIMIT) this.past.shift();
    this.present = next;
    this.future = [];
  }

  /** Complete the present step, such as with the mask that its click asked for. */
  amend(next) {
    this.present = next;
  }

  undo() {
    if (!this.past.length) return false;
    this.future.push(this.present);
    this.present = this.past.pop();
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past.push(this.present);
    this.present = this.future.pop();
    return true;
  }

  /** Forget all steps. */
  reset(first) {
    this.past = [];
    this.present = first;
    this.future = [];
  }
}
