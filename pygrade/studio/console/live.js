// The service's state: polled where the page comes from a service, absent in a file.

export class Live {
  constructor(place) {
    this.place = place;
  }

  start() {
    this.place.hidden = true;
  }
}
